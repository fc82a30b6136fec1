/**
 * The state of a modelled Mac: what the commands that agentjail calls read and change. Plain JSON, so that it
 * may live in a file between processes. Shapes and habits from manuals, kernel sources and field reports.
 */
export interface MacState {
  euid: number
  boot: string
  /** Seconds of the modelled clock. */
  clock: number
  nextPid: number
  /** Switches for what a real machine may do to us. */
  quirks: {
    /** Full Disk Access of the caller. */
    fda: boolean
    /** Ports are listed by service name. */
    serviceNames: boolean
    /** As many loads answer "Resource busy". */
    busyLoads: number
    /** MDM or SIP refuses pf. */
    pfRefused: boolean
    /** sysadminctl and dscl give another uid than asked. */
    uidStolen?: number
    /** A rule whose text contains this is dropped silently by a load. */
    loseRule?: string
    /** dscl -delete waits for a click that never comes. */
    deleteHangs: boolean
    /** Without Full Disk Access no record can be made either, as macOS 27 is told to do. */
    makingGuarded: boolean
    /** Devices that cannot be made. */
    noDevices: string[]
  }
  pf: {
    enabled: boolean
    tokens: { value: string; pid: number; name: string }[]
    anonymous: number
    /** Interfaces with the flag of `set skip on`. */
    skipped: string[]
    main: string
    /** path -> text as loaded, tables left out. */
    anchors: Record<string, string>
    /** `path\0name` -> addresses, sorted as shown. */
    tables: Record<string, { addresses: string[]; persist: boolean }>
    states: { proto: string; from: string; to: string }[]
  }
  hosts: Record<string, string[]>
  users: Record<string, Record<string, string[]>>
  groups: Record<string, Record<string, string[]>>
  interfaces: string[]
  /** Fake Ethernet devices -> the other end. */
  peers: Record<string, string>
  /** Device -> its addresses, as `address/prefix`. */
  addresses: Record<string, string[]>
  /** Whose hardware address is known by hand: nobody answers for them. */
  neighbours: string[]
  launchd: Record<string, { plist: string; state: string }>
  /** Labels that launchd does not start, over restarts. */
  disabled: string[]
  processes: { pid: number; uid: number; command: string }[]
  acls: Record<string, string[]>
  /** Path -> uid, for access lists; of others it is the person's. */
  owners: Record<string, number>
  /** Path -> what a walk below it comes to, through links that are swapped in meanwhile too. */
  below: Record<string, string[]>
  /** path -> home directories and files that commands made. */
  files: Record<
    string,
    { kind: 'file' | 'directory'; text: string; mode: number; uid: number; gid: number }
  >
  /** Every command line run, for tests. */
  calls: string[][]
}

export const stockMain = `scrub-anchor "com.apple/*" all fragment reassemble
nat-anchor "com.apple/*" all
rdr-anchor "com.apple/*" all
dummynet-anchor "com.apple/*" all
anchor "com.apple/*" all
`

/** A Mac just booted: pf off, stock rules. */
export function freshMac(): MacState {
  const person = (name: string, uid: number, gid: number, home: string) => ({
    RecordName: [name],
    UniqueID: [String(uid)],
    PrimaryGroupID: [String(gid)],
    NFSHomeDirectory: [home],
    UserShell: ['/bin/zsh'],
    GeneratedUID: [`GUID-${name}`],
  })
  return {
    euid: 0,
    boot: 'B0071D00-0000-4000-8000-000000000001',
    clock: 1_795_000_000,
    nextPid: 500,
    quirks: {
      fda: true,
      serviceNames: true,
      busyLoads: 0,
      pfRefused: false,
      deleteHangs: false,
      makingGuarded: false,
      noDevices: [],
    },
    pf: bootPf(),
    hosts: {},
    users: {
      root: person('root', 0, 0, '/var/root'),
      admin: person('admin', 501, 20, '/Users/admin'),
      nobody: person('nobody', -2, -2, '/var/empty'),
    },
    groups: {
      wheel: { RecordName: ['wheel'], PrimaryGroupID: ['0'] },
      staff: { RecordName: ['staff'], PrimaryGroupID: ['20'] },
    },
    interfaces: ['lo0', 'en0', 'utun4'],
    peers: {},
    addresses: {},
    neighbours: [],
    launchd: {},
    disabled: [],
    processes: [],
    acls: {},
    owners: {},
    below: {},
    files: {
      '/etc/services': {
        kind: 'file',
        mode: 0o644,
        uid: 0,
        gid: 0,
        text: 'ssh 22/tcp # Secure Shell\nsmtps 465/tcp\nhttps 443/udp\nhttps 443/tcp\nhttp 80/tcp www\ndomain 53/udp\ndomain 53/tcp\npostgresql 5432/tcp\n',
      },
    },
    calls: [],
  }
}

export function bootPf(): MacState['pf'] {
  return {
    enabled: false,
    tokens: [],
    anonymous: 0,
    skipped: [],
    main: stockMain,
    anchors: {
      'com.apple': 'anchor "200.AirDrop/*" all\nanchor "250.ApplicationFirewall/*" all\n',
      'com.apple/200.AirDrop': '',
      'com.apple/250.ApplicationFirewall': '',
    },
    tables: {},
    states: [],
  }
}

export function reboot(state: MacState): void {
  state.boot = state.boot.replace(/\d$/, (digit) => String(Number(digit) + 1))
  state.pf = bootPf()
  state.interfaces = state.interfaces.filter((name) => !/^(pflog|feth)/.test(name))
  Object.assign(state, { peers: {}, addresses: {}, neighbours: [] })
  state.processes = []
  for (const path of Object.keys(state.acls))
    if (path.startsWith('/var/run/')) Reflect.deleteProperty(state.acls, path)
  for (const path of Object.keys(state.files))
    if (path.startsWith('/var/run/')) Reflect.deleteProperty(state.files, path)
}

export interface Answer {
  code: number
  stdout: string
  stderr: string
}

export function answer(code = 0, stdout = '', stderr = ''): Answer {
  return { code, stdout, stderr }
}
