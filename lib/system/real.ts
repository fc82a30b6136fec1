/** The operating system itself, behind the one door. */
import { lchownSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { setTimeout as delay } from 'node:timers/promises'
import { errnoCode } from '../errors.js'
import { detachProcess, feedFifo, openSession, runCommand } from './child-processes.js'
import {
  absentAsUndefined,
  claimAtomically,
  makeDir,
  removeFile,
  statLink,
  writeAtomically,
} from './files.js'
import { holdDir, leaveDir } from './held-dir.js'
import { readBootId, readProcessStart } from './proc.js'
import { findProcesses } from './processes-of.js'
import type { System } from './types.js'

/** Runs on this machine. */
export function realSystem(): System {
  return {
    platform: process.platform === 'darwin' ? 'darwin' : 'linux',
    run: runCommand,
    open: openSession,
    detach: detachProcess,
    feed: soon(feedFifo),
    processStart: soon(readProcessStart),
    bootId: soon(readBootId),
    processesOf: soon(findProcesses),
    readFile: soon((path) => absentAsUndefined(() => readFileSync(path, 'utf8'))),
    writeFile: soon(writeAtomically),
    removeFile: soon(removeFile),
    makeDir: soon(makeDir),
    removeDir: soon((path) => {
      rmSync(path, { recursive: true, force: true })
    }),
    chown: soon(lchownSync),
    claimFile: soon(claimAtomically),
    holdDir: soon(holdDir),
    leaveDir: soon(leaveDir),
    list: soon((path) => absentAsUndefined(() => readdirSync(path)) ?? []),
    lstat: soon(statLink),
    kill: (pid, signal) => {
      try {
        return process.kill(pid, signal)
      } catch (error) {
        if (errnoCode(error) === 'ESRCH') return false
        throw error
      }
    },
    now: () => Date.now(),
    // Not `performance`: that is loaded only when it is asked for, which takes a millisecond.
    monotonic: () => Number(process.hrtime.bigint()) / 1e6,
    sleep: (milliseconds) => delay(milliseconds),
  }
}

/**
 * Done at once, told by a promise. The files are small, of /proc, /etc or a tmpfs, and there at once: a thread of the
 * pool for each step costs ten times the step.
 */
function soon<A extends readonly unknown[], R>(
  work: (...args: A) => R,
): (...args: A) => Promise<R> {
  return (...args) =>
    new Promise((resolve) => {
      resolve(work(...args))
    })
}
