/**
 * How other agentjail commands talk to a running warden: one JSON line each way over a socket in root's own directory.
 * Invariant: only root can reach it; a request that cannot be read is answered, never obeyed.
 */
import { createConnection, createServer } from 'node:net'
import type { Server, Socket } from 'node:net'
import { unlink } from 'node:fs/promises'
import { errnoCode, errorMessage, JailError } from '../errors.js'
import type { ErrorCode } from '../errors.js'

export type ControlRequest =
  | { readonly op: 'status' }
  /** Answered with the policy in force, as `policyToJson` writes it. */
  | { readonly op: 'policy' }
  /** `policy`: the whole new policy, as `policyToJson` writes it; `base`: refused (STATE) unless this is in force. */
  | { readonly op: 'reload'; readonly policy: string; readonly base?: string }

export type ControlReply =
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

/** Serves until closed. The directory is 0700, so whoever connects is root. */
export async function serveControl(
  path: string,
  handle: (request: ControlRequest) => Promise<unknown>,
): Promise<{ close(): Promise<void> }> {
  await removeSocket(path)
  const sockets = new Set<Socket>()
  const server: Server = createServer((socket) => {
    sockets.add(socket)
    socket.on('close', () => sockets.delete(socket))
    socket.on('error', () => undefined)
    readLine(socket).then(
      async (line) => {
        socket.end(`${JSON.stringify(await answer(line, handle))}\n`)
      },
      () => socket.destroy(),
    )
  })
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject)
    server.listen(path, resolve)
  })
  // The command's end is what ends the warden, not this.
  server.unref()
  return {
    close: async () => {
      for (const socket of sockets) socket.destroy()
      await new Promise<void>((resolve) => {
        server.close(() => {
          resolve()
        })
      })
      await removeSocket(path)
    },
  }
}

async function answer(
  line: string,
  handle: (request: ControlRequest) => Promise<unknown>,
): Promise<ControlReply> {
  try {
    const request = JSON.parse(line) as ControlRequest
    if (!['status', 'policy', 'reload'].includes(request.op))
      throw new JailError('USAGE', 'no such request')
    return { ok: true, result: await handle(request) }
  } catch (error) {
    const { code, message, hint } =
      error instanceof JailError ? error : new JailError('STATE', errorMessage(error))
    return { ok: false, code, message, ...(hint === undefined ? {} : { hint }) }
  }
}

/** Asks the warden of a jail. Throws what it refuses with, and NAME_UNKNOWN where nobody answers. */
export async function askWarden(
  path: string,
  jail: string,
  request: ControlRequest,
): Promise<unknown> {
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
    throw new JailError('NAME_UNKNOWN', `jail ${jail} does not answer: ${errorMessage(error)}`, {
      hint: 'see which run: agentjail status',
      cause: error,
    })
  } finally {
    socket.destroy()
  }
  const reply = JSON.parse(line) as ControlReply
  if (reply.ok) return reply.result
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

async function removeSocket(path: string): Promise<void> {
  await unlink(path).catch((error: unknown) => {
    if (errnoCode(error) !== 'ENOENT') throw error
  })
}
