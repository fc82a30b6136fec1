/** A directory for what the battery brings with it. */
import { chmod } from 'node:fs/promises'
import { dirSync, setGracefulCleanup } from 'tmp'

/** Below `parent`, under a name nobody can guess; others may go through it, not list it. Gone with the process at the latest. */
export async function makeOwnDir(parent: string, undo: (() => unknown)[]): Promise<string> {
  setGracefulCleanup()
  const { name, removeCallback } = dirSync({
    tmpdir: parent,
    prefix: 'agentjail-verify',
    unsafeCleanup: true,
  })
  undo.push(removeCallback)
  await chmod(name, 0o711)
  return name
}
