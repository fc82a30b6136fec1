/**
 * Files that the battery tries to read, change or run: a workspace of its own below /var/tmp.
 * Invariant: the two programs with privilege are copies of `id` and `cat`, which do nothing for whoever finds them.
 */
import { chmod, chown, copyFile, mkdir, rm, writeFile } from 'node:fs/promises'
import { JailError } from '../errors.js'
import { makeOwnDir } from './own-dir.js'
import type { StageTools } from './stage.js'

export interface Planted {
  readonly workspace: string
  /** Outside the workspace; anyone may read it. */
  readonly canary: string
  /** A name in the host's /tmp. */
  readonly tmpMarker: string
  /** Stands for agentjail's own package. */
  readonly package: string
}

export async function plantFiles(
  tools: StageTools,
  nonce: string,
  undo: (() => unknown)[],
): Promise<Planted> {
  const root = await makeOwnDir('/var/tmp', undo)
  const workspace = `${root}/work`
  for (const dir of ['', '/.git', '/.git/hooks', '/.git/objects', '/.git/refs', '/package']) {
    await mkdir(workspace + dir)
    await chmod(workspace + dir, 0o777)
  }
  await mkdir(`${workspace}/helpers`, { mode: 0o755 })
  const write = async (path: string, text: string, mode: number): Promise<void> => {
    await writeFile(path, text)
    await chmod(path, mode)
  }
  await write(`${workspace}/.git/HEAD`, 'ref: refs/heads/main\n', 0o666)
  await write(`${workspace}/.git/config`, '[core]\n\tbare = false\n', 0o666)
  await write(`${workspace}/.env`, `SECRET=${nonce}\n`, 0o644)
  await write(`${workspace}/package/code.js`, '// agentjail\n', 0o666)
  await write(`${root}/canary`, `${nonce}\n`, 0o644)
  await copyFile('/usr/bin/id', `${workspace}/helpers/as-root`)
  await chown(`${workspace}/helpers/as-root`, 0, 0)
  await chmod(`${workspace}/helpers/as-root`, 0o4755)
  await copyFile('/bin/cat', `${workspace}/helpers/capable`)
  await chmod(`${workspace}/helpers/capable`, 0o755)
  await grantCapability(tools, `${workspace}/helpers/capable`)
  const tmpMarker = `agentjail-verify-${nonce}`
  await mkdir(`/tmp/${tmpMarker}`, { mode: 0o755 })
  undo.push(() => rm(`/tmp/${tmpMarker}`, { recursive: true, force: true }))
  return { workspace, canary: `${root}/canary`, tmpMarker, package: `${workspace}/package` }
}

/**
 * CAP_NET_BIND_SERVICE (10), permitted and effective, as `setcap` would write it: struct vfs_cap_data of
 * <linux/capability.h>, revision 2. setcap itself is not on every system.
 */
async function grantCapability({ system, perl }: StageTools, path: string): Promise<void> {
  const script = `my ($path, $nr) = @ARGV; my $data = pack 'V5', 0x02000001, 1 << 10, 0, 0, 0;
    my ($file, $name) = ("$path\\0", "security.capability\\0"); syscall($nr, $file, $name, $data, 20, 0) == 0 or die "$!\\n"`
  // setxattr(2): x86-64 188, arm64 5.
  const number = process.arch === 'arm64' ? '5' : '188'
  const { code, stderr } = await system.run([perl, '-e', script, path, number])
  if (code !== 0) throw new JailError('STATE', `no file capability in /var/tmp: ${stderr.trim()}`)
}
