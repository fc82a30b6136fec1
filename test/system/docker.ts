/**
 * docker's own engine on the lab's host: its daemon, its bridge, its rules and its filters, as Debian has them. What
 * `prepare` unpacked is run from where it lies; nothing of it is on the machine.
 */
import { join } from 'node:path'
import type { Lab } from '../lab/lab.js'
import { root } from '../lab/paths.js'

const enginePath = join(root, 'test/engine')
/** runc and containerd are looked for there. */
const path = `${enginePath}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin`

export interface Docker {
  /** Runs `docker WORDS` on the host. */
  run(
    words: readonly string[],
    options?: { timeout?: number; input?: string },
  ): ReturnType<Lab['run']>
  spawn(words: readonly string[]): ReturnType<Lab['spawn']>
  /** As `systemctl restart docker`: containers end with it, its rules are made anew. */
  restart(): Promise<void>
  end(): Promise<void>
}

/** Starts the daemon; it ends with the lab. */
export const startDocker = async (lab: Lab): Promise<Docker> => {
  const options = { timeout: 240_000, env: { PATH: path } }
  // The root of a lab is an overlay, which cannot bear another: /srv is not.
  const argv = ['dockerd', '--data-root', '/srv/docker', '--storage-driver', 'overlay2']
  const start = async () => {
    const daemon = lab.spawn(argv, options)
    await daemon.until(/API listen on/, 60_000)
    return daemon
  }
  let daemon = await start()
  const end = async () => {
    daemon.kill('SIGTERM')
    await daemon.ended
  }
  // Where agentjail, too, looks for it.
  await lab.run(['cp', join(enginePath, 'docker'), '/usr/bin/docker'])
  await lab.run(['rm', '-f', '/usr/local/bin/docker'])
  return {
    run: (words, more) => lab.run(['docker', ...words], { ...options, ...more }),
    spawn: (words) => lab.spawn(['docker', ...words], options),
    restart: async () => {
      await end()
      daemon = await start()
    },
    end,
  }
}
