/**
 * A container as docker makes one by default, by hand: crun with docker's capabilities, its masked and read-only paths,
 * no group of its own, and what its seccomp profile forbids. Its network is the lab's host's, as after `--network host`.
 * The sources of the lists are docker's documentation ("Runtime privilege and Linux capabilities", "Seccomp security
 * profiles for Docker") and its runtime's defaults; the profile allows a list of calls, here the ones that it is
 * documented to forbid are refused, so calls that neither names pass here.
 */
import { readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import type { Lab } from '../lab/lab.js'
import { agentjailPath, modules, root } from '../lab/paths.js'

/** What docker gives a container of root's without any option. */
export const dockerCapabilities = [
  ...['CHOWN', 'DAC_OVERRIDE', 'FOWNER', 'FSETID', 'KILL', 'SETGID', 'SETUID', 'SETPCAP'],
  ...['NET_BIND_SERVICE', 'NET_RAW', 'SYS_CHROOT', 'MKNOD', 'AUDIT_WRITE', 'SETFCAP'],
] as const

/** Forbidden to who has not CAP_SYS_ADMIN, CAP_SYS_PTRACE, CAP_SYS_MODULE and the like. */
const forbidden = [
  ...['acct', 'bpf', 'clock_settime', 'delete_module', 'fanotify_init', 'finit_module', 'fsconfig'],
  ...['fsmount', 'fsopen', 'fspick', 'init_module', 'ioperm', 'iopl', 'kcmp', 'kexec_file_load'],
  ...['kexec_load', 'keyctl', 'add_key', 'request_key', 'lookup_dcookie', 'mbind', 'mount'],
  ...['mount_setattr', 'move_mount', 'move_pages', 'name_to_handle_at', 'open_by_handle_at'],
  ...['open_tree', 'perf_event_open', 'pidfd_getfd', 'pivot_root', 'process_madvise', 'quotactl'],
  ...['reboot', 'set_mempolicy', 'setdomainname', 'sethostname', 'setns', 'settimeofday', 'swapon'],
  ...['swapoff', 'syslog', 'umount2', 'unshare', 'userfaultfd', 'vhangup', 'io_uring_setup'],
]
/** CLONE_NEW* of <linux/sched.h>: time, mount, control group, UTS, IPC, user, PID, network. */
const newNamespaces = [
  0x80, 0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000,
]
const seccomp = {
  defaultAction: 'SCMP_ACT_ALLOW',
  syscalls: [
    { names: forbidden, action: 'SCMP_ACT_ERRNO', errnoRet: 1 },
    // ENOSYS: the C library then takes clone(2), whose flags a filter can see.
    { names: ['clone3'], action: 'SCMP_ACT_ERRNO', errnoRet: 38 },
    ...newNamespaces.map((flag) => ({
      names: ['clone'],
      action: 'SCMP_ACT_ERRNO',
      errnoRet: 1,
      args: [{ index: 0, value: flag, valueTwo: flag, op: 'SCMP_CMP_MASKED_EQ' }],
    })),
  ],
}
const masked = [
  '/proc/asound',
  '/proc/acpi',
  '/proc/kcore',
  '/proc/keys',
  '/proc/timer_list',
  '/sys/firmware',
]
const readOnly = ['/proc/bus', '/proc/fs', '/proc/irq', '/proc/sys', '/proc/sysrq-trigger']

export interface Container {
  /** Below it are the files that the container may change: `${files}/etc/...`. */
  readonly files: string
  /** Directories of the lab's host's, read-only at the same places. */
  readonly binds: readonly string[]
  /** Its config.json, to be run with `crunArgv`. */
  config(argv: readonly string[], capabilities: readonly string[]): void
}

const bundle = '/srv/bundle'

/** Without control groups: the container's are read-only, as docker shows them. */
export const crunArgv = (name: string): string[] => [
  ...[
    'crun',
    '--root',
    '/run/crun',
    '--cgroup-manager',
    'disabled',
    'run',
    '--bundle',
    bundle,
    name,
  ],
]

/** The files of an image with Node and agentjail's packages, from the lab's host's own. */
export const makeContainer = async (lab: Lab): Promise<Container> => {
  const files = `${bundle}/rootfs`
  const prefix = dirname(dirname(process.execPath))
  const made = await lab.run([
    ...[
      'sh',
      '-ec',
      `mkdir -p ${files}/usr ${files}/proc ${files}/sys ${files}/dev ${files}/tmp ${files}/work`,
    ],
  ])
  const copied = await lab.run([
    ...[
      'sh',
      '-ec',
      `cd ${files}; chmod 1777 tmp; cp -a /etc etc; mkdir -p run root var/lib var/log var/tmp home; chmod 700 root;
      for d in bin sbin lib lib32 lib64; do if test -L /$d; then cp -a /$d .; fi; done;
      mkdir -p usr/local/bin .${root} .${modules} .${prefix}; rm -rf etc/agentjail
      # Slim images have no package netbase: tools then print protocols by number.
      rm etc/protocols etc/services`,
    ],
  ])
  // As npm would have put it there; the build is shown read-only, where its mode is not npm's.
  lab.writeFile('/usr/local/bin/agentjail', `#!/bin/sh\nexec node ${agentjailPath} "$@"\n`, 0o755)
  if (made.code !== 0 || copied.code !== 0) throw new Error(made.stderr + copied.stderr)
  const bind = (path: string) => ({
    destination: path,
    source: path,
    type: 'bind',
    options: ['rbind', 'ro'],
  })
  const within = (path: string): boolean => path === '/usr' || path.startsWith('/usr/')
  const binds = ['/usr', ...[root, modules, prefix].filter((path) => !within(path))]
  return {
    files,
    binds,
    config: (args, capabilities) => {
      const caps = capabilities.map((name) => `CAP_${name}`)
      lab.writeFile(
        `${bundle}/config.json`,
        JSON.stringify({
          ociVersion: '1.0.2',
          process: {
            args,
            cwd: '/work',
            user: { uid: 0, gid: 0 },
            env: [
              'PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
              'HOME=/root',
              'LANG=C.UTF-8',
            ],
            capabilities: { bounding: caps, effective: caps, permitted: caps },
          },
          root: { path: 'rootfs' },
          hostname: 'boxed',
          mounts: [
            {
              destination: '/proc',
              type: 'proc',
              source: 'proc',
              options: ['nosuid', 'noexec', 'nodev'],
            },
            {
              destination: '/dev',
              type: 'tmpfs',
              source: 'tmpfs',
              options: ['nosuid', 'mode=755', 'size=65536k'],
            },
            {
              destination: '/dev/pts',
              type: 'devpts',
              source: 'devpts',
              options: ['nosuid', 'noexec', 'newinstance', 'ptmxmode=0666', 'mode=0620'],
            },
            {
              destination: '/dev/shm',
              type: 'tmpfs',
              source: 'shm',
              options: ['nosuid', 'noexec', 'nodev', 'mode=1777', 'size=65536k'],
            },
            {
              destination: '/sys',
              type: 'sysfs',
              source: 'sysfs',
              options: ['nosuid', 'noexec', 'nodev', 'ro'],
            },
            ...binds.map(bind),
          ],
          linux: {
            namespaces: ['pid', 'mount', 'ipc', 'uts'].map((type) => ({ type })),
            maskedPaths: masked,
            readonlyPaths: readOnly,
            seccomp,
          },
        }),
      )
    },
  }
}

/** The words of a Dockerfile that start a command; JSON, as docker reads it. */
export const dockerfileWords = (path: string, keyword: 'ENTRYPOINT' | 'CMD'): string[] => {
  const text = readFileSync(join(root, path), 'utf8')
  const found = new RegExp(`^${keyword} (\\[.*\\])$`, 'm').exec(text)?.[1]
  if (found === undefined) throw new Error(`${path} has no ${keyword}`)
  return JSON.parse(found) as string[]
}
