/**
 * How other agentjail commands talk to a running warden: one JSON line each way over a socket in root's own directory.
 * Invariant: only root can reach it; a request that cannot be read is answered, never obeyed.
 */
import { createConnection, createServer } from 'node:net'
import type { Server, Socket } from 'node:net'
import { unlinkSync } from 'node:fs'
import { errnoCode, errorMessage, JailError } from '../errors.js'
import type { ErrorCode } from '../errors.js'

export type ControlRequest =
  | { readonly op: 'status' }
  /** Answered with the policy in force, as `policyToJson` writes it. */
  | { readonly op: 'policy' }
  /** `policy`: the whole new policy, as `policyToJson` writes it; `base`: refused (STATE) unless this is in force. */
  | { readonly op: 'reload'; readonly policy: string; readonly base?: string }
  /** How to launch a further command; the connection stays open, and its end is the end of the jail. */
  | { readonly op: 'join' }
  /** SIGTERM to the command, SIGKILL after a grace. */
  | { readonly op: 'stop' }

const operations = ['status', 'policy', 'reload', 'join', 'stop']

type ControlReply =
  | { readonly ok: true; readonly result: unknown }
  | {
      readonly ok: false
      readonly code: ErrorCode
      readonly message: string
      readonly hint?: string
    }

const maxRequest = 8 * 1024 * 1024
const answerTimeout = 30_000

export const controlPath = (stateDir: string, jail: string): string =>
  `${stateDir}/control-${jail}.sock`

export interface Control {
  /** Cuts every connection: whoever joined ends their command. */
  release(): void
  close(): Promise<void>
}

/** Serves until closed. The directory is 0700, so whoever connects is root. */
export async function serveControl(
  path: string,
  handle: (request: ControlRequest) => Promise<unknown>,
): Promise<Control> {
  const refuse = (error: unknown): JailError =>
    new JailError('STATE', `the control socket ${path} cannot be served: ${errorMessage(error)}`, {
      cause: error,
    })
  try {
    removeSocket(path)
  } catch (error) {
    throw refuse(error)
  }
  const sockets = new Set<Socket>()
  const server: Server = createServer((socket) => {
    sockets.add(socket)
    socket.on('close', () => sockets.delete(socket))
    socket.on('error', () => undefined)
    readLine(socket).then(
      async (line) => {
        const { reply, stays } = await answer(line, handle)
        const text = `${JSON.stringify(reply)}\n`
        if (stays) socket.write(text)
        else socket.end(text)
      },
      () => socket.destroy(),
    )
  })
  await new Promise<void>((resolve, reject) => {
    server.once('error', (error) => {
      reject(refuse(error))
    })
    server.listen(path, resolve)
  })
  // The command's end is what ends the warden, not this.
  server.unref()
  const release = (): void => {
    for (const socket of sockets) socket.destroy()
  }
  return {
    release,
    close: async () => {
      release()
      await new Promise<void>((resolve) => {
        server.close(() => {
          resolve()
        })
      })
      removeSocket(path)
    },
  }
}

async function answer(
  line: string,
  handle: (request: ControlRequest) => Promise<unknown>,
): Promise<{ reply: ControlReply; stays: boolean }> {
  try {
    const request = JSON.parse(line) as ControlRequest
    if (!operations.includes(request.op)) throw new JailError('USAGE', 'no such request')
    return { reply: { ok: true, result: await handle(request) }, stays: request.op === 'join' }
  } catch (error) {
    const { code, message, hint } =
      error instanceof JailError ? error : new JailError('STATE', errorMessage(error))
    const reply = { ok: false, code, message, ...(hint === undefined ? {} : { hint }) } as const
    return { reply, stays: false }
  }
}

/** Asks the warden of a jail. Throws what it refuses with, and NAME_UNKNOWN where nobody answers. */
export async function askWarden(
  path: string,
  jail: string,
  request: ControlRequest,
): Promise<unknown> {
  const { result, socket } = await converse(path, jail, request)
  socket.destroy()
  return result
}

/** As `askWarden`, and the connection stays: its `close` says that the jail ends. */
export async function converse(
  path: string,
  jail: string,
  request: ControlRequest,
): Promise<{ result: unknown; socket: Socket }> {
  const socket = createConnection(path)
  socket.setTimeout(answerTimeout, () => socket.destroy(new Error('no answer')))
  let line: string
  try {
    await new Promise<void>((resolve, reject) => {
      socket.once('connect', resolve)
      socket.once('error', reject)
    })
    socket.write(`${JSON.stringify(request)}\n`)
    line = await readLine(socket)
  } catch (error) {
    socket.destroy()
    throw new JailError('STATE', `jail ${jail} does not answer: ${errorMessage(error)}`, {
      hint: 'see which run: agentjail status',
      cause: error,
    })
  }
  socket.setTimeout(0)
  const reply = JSON.parse(line) as ControlReply
  if (reply.ok) return { result: reply.result, socket }
  socket.destroy()
  throw new JailError(
    reply.code,
    reply.message,
    reply.hint === undefined ? {} : { hint: reply.hint },
  )
}

function readLine(socket: Socket): Promise<string> {
  return new Promise((resolve, reject) => {
    let text = ''
    socket.setEncoding('utf8')
    socket.on('data', (chunk: string) => {
      text += chunk
      if (text.length > maxRequest) reject(new Error('too long'))
      const end = text.indexOf('\n')
      if (end >= 0) resolve(text.slice(0, end))
    })
    socket.on('error', reject)
    socket.on('close', () => {
      reject(new Error('closed'))
    })
  })
}

function removeSocket(path: string): void {
  try {
    unlinkSync(path)
  } catch (error) {
    if (errnoCode(error) !== 'ENOENT') throw error
  }
}
