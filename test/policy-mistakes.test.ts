/** Every mistake in a policy, with its exact message: where, what is wrong, what would be right. */
import t from 'tap'
import { formatProblem, parsePolicy } from '../lib/policy/parse.js'

/** Title, text, and the messages without the file's name. */
const mistakes: readonly (readonly [string, string, readonly string[]])[] = [
  ['empty file', '', ['1:1: the policy is empty; write version: 1 and network.allow']],
  ['only a comment', '# nothing', ['1:1: the policy is empty; write version: 1 and network.allow']],
  ['a list', '- a', ['1:1: the policy is a list; write a mapping (key: value)']],
  ['no version', 'name: x', ['1:1: the policy has no version; write version: 1']],
  ['another version', 'version: 2', ['1:10: version is "2"; write version: 1']],
  ['version as text', 'version: "1"', ['1:10: version is "1"; write version: 1']],
  [
    'unknown key, near',
    'version: 1\nnetwrk: {}',
    ['2:1: unknown key "netwrk" in the policy; did you mean network?'],
  ],
  [
    'unknown key, far',
    'version: 1\nadmin: {}',
    [
      '2:1: unknown key "admin" in the policy; known here: version, name, description, extends, isolation, network, credentials, env, fs, limits, userNamespaces, transparent',
    ],
  ],
  [
    'unknown key deep, synonym',
    'version: 1\nnetwork:\n  allow:\n    - { domain: a.com }',
    [
      '4:7: network.allow[0] has no host; write host: NAME or hosts: [NAME, NAME]',
      '4:9: unknown key "domain" in network.allow[0]; did you mean host?',
    ],
  ],
  [
    'key twice',
    'version: 1\nname: a\nname: b',
    ['3:1: "name" is in the policy twice; it is on line 2 already; keep one'],
  ],
  [
    '__proto__',
    'version: 1\n__proto__: {}',
    [
      '2:1: unknown key "__proto__" in the policy; known here: version, name, description, extends, isolation, network, credentials, env, fs, limits, userNamespaces, transparent',
    ],
  ],
  [
    '__proto__ in a dictionary',
    'version: 1\nenv: { set: { __proto__: x } }',
    ['2:15: "__proto__" can\'t be a key in env.set; choose another word'],
  ],
  [
    'merge key',
    'version: 1\nnetwork: { <<: { ipv6: true } }',
    ['2:12: merge keys are not read; write the values out, or use extends'],
  ],
  [
    'anchor and alias',
    'version: 1\nnetwork:\n  allow: &a [a.com]\n  deny: *a',
    [
      '3:13: anchors and aliases are not read; write the value out',
      '4:9: anchors and aliases are not read; write the value out',
    ],
  ],
  [
    'pattern without quotes',
    'version: 1\nnetwork:\n  allow:\n    - *.example.com',
    ['4:7: anchors and aliases are not read; put the pattern in quotes: "*.example.com"'],
  ],
  ['tag', 'version: 1\nname: !!binary aGk=', ['2:16: tags are not read; write the plain value']],
  [
    'two documents',
    'version: 1\n---\nversion: 1',
    ['2:1: not valid YAML: a second document; one policy a file; remove the second ---'],
  ],
  [
    'tab',
    'version: 1\nnetwork:\n\tallow: []',
    ['3:1: not valid YAML: Tabs are not allowed as indentation; indent with spaces'],
  ],
  [
    'unclosed',
    'version: 1\nnetwork: { allow: [a.com',
    [
      '2:25: not valid YAML: Flow sequence in block collection must be sufficiently indented and end with a ]; line up the keys of one mapping, and close brackets',
    ],
  ],
  [
    'alias bomb',
    'version: 1\na: &a [x,x]\nb: [*a,*a]',
    [
      '2:1: unknown key "a" in the policy; known here: version, name, description, extends, isolation, network, credentials, env, fs, limits, userNamespaces, transparent',
      '2:7: anchors and aliases are not read; write the value out',
      '3:1: unknown key "b" in the policy; known here: version, name, description, extends, isolation, network, credentials, env, fs, limits, userNamespaces, transparent',
      '3:5: anchors and aliases are not read; write the value out',
      '3:8: anchors and aliases are not read; write the value out',
    ],
  ],
  [
    'wrong type: list wanted',
    'version: 1\nnetwork:\n  allow: a.com',
    ['3:10: network.allow is text; write a list (- item, or [item, item])'],
  ],
  [
    'wrong type: mapping wanted',
    'version: 1\nnetwork: [a.com]',
    ['2:10: network is a list; write a mapping (key: value)'],
  ],
  [
    'empty section',
    'version: 1\nnetwork:',
    ['2:9: network is empty; write a mapping (key: value)'],
  ],
  [
    'empty list',
    'version: 1\nnetwork:\n  allow: []',
    ['3:10: network.allow is an empty list; write an item, or leave it out'],
  ],
  [
    'yes is no boolean',
    'version: 1\nnetwork:\n  ipv6: yes',
    ['3:9: network.ipv6 is text; write true or false'],
  ],
  [
    'number as text',
    'version: 1\nnetwork:\n  allow:\n    - 443',
    ['4:7: network.allow[0] is a number; write text in quotes: "443"'],
  ],
  [
    'bad name',
    'version: 1\nname: My Policy',
    [
      '2:7: "My Policy" is not a policy\'s name; write lower-case letters, digits and hyphens, a letter first, at most 63',
    ],
  ],
  [
    'everything',
    'version: 1\nnetwork:\n  allow:\n    - "*"',
    ['4:7: "*" grants every name; name the hosts, e.g. api.example.com'],
  ],
  [
    'a top-level domain',
    'version: 1\nnetwork:\n  allow:\n    - "*.com"',
    ['4:7: "*.com" grants every domain under .com; name the domain: *.example.com'],
  ],
  [
    'a public suffix',
    'version: 1\nnetwork:\n  allow:\n    - "**.co.uk"',
    ['4:7: "**.co.uk" grants every domain under .co.uk; name the domain: *.example.co.uk'],
  ],
  [
    'tenant hosting',
    'version: 1\nnetwork:\n  allow:\n    - "*.github.io"',
    [
      '4:7: "*.github.io" grants hosts of unrelated owners: anybody can have a name under github.io; name the hosts, e.g. my-own.github.io',
    ],
  ],
  [
    'tenant hosting above',
    'version: 1\nnetwork:\n  allow:\n    - "**.amazonaws.com"',
    [
      '4:7: "**.amazonaws.com" grants hosts of unrelated owners: anybody can have a name under amazonaws.com; name the hosts, e.g. my-own.amazonaws.com',
    ],
  ],
  [
    'tenant hosting below',
    'version: 1\nnetwork:\n  allow:\n    - "*.blob.core.windows.net"',
    [
      '4:7: "*.blob.core.windows.net" grants hosts of unrelated owners: anybody can have a name under blob.core.windows.net; name the hosts, e.g. my-own.blob.core.windows.net',
    ],
  ],
  [
    'shared host',
    'version: 1\nnetwork:\n  allow:\n    - storage.googleapis.com',
    [
      '4:7: "storage.googleapis.com" is shared by all its tenants: anybody can own a bucket there; write BUCKET.storage.googleapis.com',
    ],
  ],
  [
    'wildcard inside',
    'version: 1\nnetwork:\n  allow:\n    - "api.*.com"',
    [
      '4:7: "api.*.com" has a wildcard inside; only a first label may be * (one label) or ** (one or more): *.example.com',
    ],
  ],
  [
    'scheme',
    'version: 1\nnetwork:\n  allow:\n    - https://api.example.com/v1',
    ['4:7: "https://api.example.com/v1" has a scheme; write the host alone: api.example.com'],
  ],
  [
    'path',
    'version: 1\nnetwork:\n  allow:\n    - api.example.com/v1',
    [
      '4:7: "api.example.com/v1" has a path; write the host alone: api.example.com; paths go under rules with inspect: http',
    ],
  ],
  [
    'address',
    'version: 1\nnetwork:\n  allow:\n    - 10.0.0.1:443',
    ['4:7: "10.0.0.1" is an address, not a name; put it under network.cidrs'],
  ],
  [
    'unicode',
    'version: 1\nnetwork:\n  allow:\n    - bücher.example',
    ['4:7: "b\\u{fc}cher.example" is not in ASCII; write its punycode: xn--bcher-kva.example'],
  ],
  [
    'port too high',
    'version: 1\nnetwork:\n  allow:\n    - api.example.com:65536',
    ['4:7: port 65536 is out of range; write a port from 1 to 65535, or a range like "8000-8010"'],
  ],
  [
    'port zero',
    'version: 1\nnetwork:\n  allow:\n    - { host: a.example.com, ports: [0] }',
    ['4:38: port 0 is out of range; write a port from 1 to 65535, or a range like "8000-8010"'],
  ],
  [
    'port no number',
    'version: 1\nnetwork:\n  allow:\n    - api.example.com:https',
    ['4:7: "https" is not a port; write a port from 1 to 65535, or a range like "8000-8010"'],
  ],
  [
    'range backwards',
    'version: 1\nnetwork:\n  allow:\n    - { host: a.example.com, ports: ["90-80"] }',
    ['4:38: the range 90-80 runs backwards; write 80-90'],
  ],
  [
    'port 53',
    'version: 1\nnetwork:\n  allow:\n    - { host: a.example.com, ports: ["1-100"] }',
    [
      '4:38: port 53 always goes to the DNS filter; leave it out; granted names are resolved without it',
    ],
  ],
  [
    'host and hosts',
    'version: 1\nnetwork:\n  allow:\n    - { host: a.example.com, hosts: [b.example.com] }',
    ['4:37: network.allow[0] has host and hosts; keep one of them'],
  ],
  [
    'no host',
    'version: 1\nnetwork:\n  allow:\n    - { ports: [443] }',
    ['4:7: network.allow[0] has no host; write host: NAME or hosts: [NAME, NAME]'],
  ],
  [
    'localhost, no port',
    'version: 1\nnetwork:\n  allow:\n    - localhost',
    ['4:7: localhost stands without a port; write localhost:PORT'],
  ],
  [
    'localhost with more',
    'version: 1\nnetwork:\n  allow:\n    - { host: localhost, ports: [3000], inspect: sni }',
    [
      '4:41: inspect does not go with localhost; write only host and ports, or network.loopback.connect',
    ],
  ],
  [
    'rules, no http',
    'version: 1\nnetwork:\n  allow:\n    - host: a.example.com\n      rules: [{ method: GET, path: / }]',
    ['5:7: rules without inspect: http enforces nothing; add inspect: http'],
  ],
  [
    'access, no http',
    'version: 1\nnetwork:\n  allow:\n    - host: a.example.com\n      access: read-only',
    ['5:7: access without inspect: http enforces nothing; add inspect: http'],
  ],
  [
    'credential, no http',
    'version: 1\nnetwork:\n  allow:\n    - host: a.example.com\n      credential: k',
    ['5:7: credential without inspect: http enforces nothing; add inspect: http'],
  ],
  [
    'rule refused by access',
    'version: 1\nnetwork:\n  allow:\n    - host: a.example.com\n      inspect: http\n      access: read-only\n      rules: [{ method: POST, path: / }]',
    ['6:7: access: read-only refuses the rule for "POST" anyway; drop the rule, or widen access'],
  ],
  [
    'udp inspected',
    'version: 1\nnetwork:\n  allow:\n    - host: a.example.com\n      proto: udp\n      inspect: sni',
    ['6:7: inspect: sni does not go with proto: udp; leave one out'],
  ],
  [
    'private wildcard',
    'version: 1\nnetwork:\n  allow:\n    - { host: "*.example.com", private: true }',
    ['4:32: private: true does not go with the wildcard "*.example.com"; name the hosts'],
  ],
  [
    'credential wildcard',
    'version: 1\nnetwork:\n  allow:\n    - { host: "*.example.com", inspect: http, credential: k }',
    [
      '4:47: a credential does not go with the wildcard "*.example.com"; name the hosts that may have the key',
    ],
  ],
  [
    'bad inspect',
    'version: 1\nnetwork:\n  allow:\n    - host: a.example.com\n      inspect: tls',
    ['5:16: network.allow[0].inspect is "tls"; write none, sni or http'],
  ],
  [
    'lower-case method',
    'version: 1\nnetwork:\n  allow:\n    - host: a.example.com\n      inspect: http\n      rules: [{ method: post, path: / }]',
    ['6:25: "post" is not a method; write POST'],
  ],
  [
    'no path',
    'version: 1\nnetwork:\n  allow:\n    - host: a.example.com\n      inspect: http\n      rules: [{ method: GET }]',
    ['6:15: network.allow[0].rules[0] has no path; write path: /v1/**'],
  ],
  [
    'path without slash',
    'version: 1\nnetwork:\n  allow:\n    - host: a.example.com\n      inspect: http\n      rules: [{ method: GET, path: v1 }]',
    ['6:36: the path "v1" starts with no slash; write /v1'],
  ],
  [
    'path with query',
    'version: 1\nnetwork:\n  allow:\n    - host: a.example.com\n      inspect: http\n      rules: [{ method: GET, path: "/v1?a=b" }]',
    ['6:36: the path "/v1?a=b" has a query in it; write parameters under query'],
  ],
  [
    'path with dots',
    'version: 1\nnetwork:\n  allow:\n    - host: a.example.com\n      inspect: http\n      rules: [{ method: GET, path: /v1/../admin }]',
    ['6:36: the path "/v1/../admin" has dot segments; write the path as it ends up'],
  ],
  [
    'path with encoded slash',
    'version: 1\nnetwork:\n  allow:\n    - host: a.example.com\n      inspect: http\n      rules: [{ method: GET, path: /v1/a%2Fb }]',
    [
      '6:36: the path "/v1/a%2Fb" has a character that changes its meaning when decoded; leave out encoded slashes, dots and percent signs, and backslashes',
    ],
  ],
  [
    'token, no credential',
    'version: 1\nnetwork:\n  allow:\n    - host: a.example.com\n      inspect: http\n      rules: [{ method: GET, path: "/bot{token}/x" }]',
    ['6:7: {token} in a path, and no credential; add credential: ID'],
  ],
  [
    'bad within',
    'version: 1\nnetwork:\n  allow:\n    - host: a.example.com\n      within: [160.79.104.1/23]',
    ['5:16: "160.79.104.1/23" has bits set after its prefix; write 160.79.104.0/23'],
  ],
  [
    'bad size',
    'version: 1\nnetwork:\n  allow:\n    - host: a.example.com\n      inspect: http\n      rules: [{ method: PUT, path: /, maxBody: 2mb }]',
    ['6:48: "2mb" is not a size; write a number and a unit: 500kB, 2MB, 1GiB'],
  ],
  [
    'granted twice',
    'version: 1\nnetwork:\n  allow:\n    - a.example.com\n    - A.example.com.',
    [
      '5:7: "a.example.com" is granted on line 4 already; keep one entry for a host and port, with all its rules',
    ],
  ],
  [
    'granted and denied',
    'version: 1\nnetwork:\n  allow: [a.example.com]\n  deny: [a.example.com]',
    ['3:11: "a.example.com" is granted here and denied on line 4, which wins; drop one of the two'],
  ],
  [
    'cidr too wide',
    'version: 1\nnetwork:\n  cidrs: [{ cidr: 0.0.0.0/0, ports: [443] }]',
    ['3:19: "0.0.0.0/0" grants too much of the internet; at least /8; grant names where you can'],
  ],
  [
    'cidr loopback',
    'version: 1\nnetwork:\n  cidrs: [{ cidr: 127.0.0.1, ports: [443] }]',
    ['3:19: "127.0.0.1" is loopback; write the ports under network.loopback.connect'],
  ],
  [
    'cidr metadata',
    'version: 1\nnetwork:\n  cidrs: [{ cidr: 169.254.0.0/16, ports: [80] }]',
    ['3:19: "169.254.0.0/16" has a cloud\'s metadata service in it; grant a narrower range'],
  ],
  [
    'cidr octal',
    'version: 1\nnetwork:\n  cidrs: [{ cidr: 203.0.113.010, ports: [80] }]',
    [
      '3:19: "203.0.113.010" is not a plain IPv4 address; write four decimal numbers 0-255 without leading zeros, e.g. 203.0.113.0/24',
    ],
  ],
  [
    'cidr without ports',
    'version: 1\nnetwork:\n  cidrs: [{ cidr: 203.0.113.0/24 }]',
    ['3:11: network.cidrs[0] has no ports; write ports: [5432]'],
  ],
  [
    'deny of nothing',
    'version: 1\nnetwork:\n  deny: [{ reason: no }]',
    ['3:10: network.deny[0] has neither host nor cidr; write exactly one of them'],
  ],
  [
    'loopback range',
    'version: 1\nnetwork:\n  loopback: { connect: [3000-3010] }',
    ['3:25: "3000-3010" is a range; write each port of the loopback by itself'],
  ],
  [
    'bad upstream',
    'version: 1\nnetwork:\n  dns: { upstream: [dns.google] }',
    [
      '3:21: "dns.google" is not the address of a resolver; write e.g. 192.0.2.53, 192.0.2.53:5353 or [2001:db8::53]:53',
    ],
  ],
  [
    'bad record type',
    'version: 1\nnetwork:\n  dns: { types: [TXT] }',
    ['3:18: network.dns.types[0] is "TXT"; write A, AAAA or SRV'],
  ],
  [
    'ttl out of bounds',
    'version: 1\nnetwork:\n  dns: { maxTtl: 1d }',
    ['3:18: 86400 seconds is out of bounds; write 5s to 3600s'],
  ],
  [
    'fixed name is no name',
    'version: 1\nnetwork:\n  dns: { hosts: { "*.a.com": 203.0.113.1 } }',
    ['3:19: "*.a.com" is not a host name; write a full name without wildcards'],
  ],
  [
    'a key written out',
    'version: 1\ncredentials:\n  k: { from: sk-proj-abcdefghijklmnopqrstuvwx, in: header:x-api-key }',
    [
      '3:14: a secret is written here; take it out, replace it at its service, and name its source under credentials',
    ],
  ],
  [
    'unknown source',
    'version: 1\ncredentials:\n  k: { from: hunter2hunter2, in: header:x-api-key }',
    [
      '3:14: from names no source (its text is not shown: it may be the key); write env:NAME, file:/path, exec:COMMAND, keychain:ITEM or systemd:NAME',
    ],
  ],
  [
    'shell in exec',
    'version: 1\ncredentials:\n  k: { from: "exec:cat $HOME/key", in: header:x-api-key }',
    [
      '3:14: exec: has characters of a shell in it, and no shell reads it; write from: {exec: [gh, auth, token]}',
    ],
  ],
  [
    'relative key file',
    'version: 1\ncredentials:\n  k: { from: "file:./key", in: header:x-api-key }',
    ['3:14: file: is followed by no absolute path; write e.g. file:/etc/agentjail/key'],
  ],
  [
    'no place',
    'version: 1\ncredentials:\n  k: { from: env:KEY }',
    [
      '3:3: credentials.k has no in; write header:NAME, query:NAME, path:PREFIX, basic or body:NAME',
    ],
  ],
  [
    'bad place',
    'version: 1\ncredentials:\n  k: { from: env:KEY, in: cookie:sid }',
    [
      '3:27: "cookie:sid" is no place for a key; write header:NAME, query:NAME, path:PREFIX, basic or body:NAME',
    ],
  ],
  [
    'framing header',
    'version: 1\ncredentials:\n  k: { from: env:KEY, in: header:Host }',
    ['3:27: the header host never holds a key; name the right header'],
  ],
  [
    'format without mark',
    'version: 1\ncredentials:\n  k: { from: env:KEY, in: header:x-key, format: Bearer }',
    ['3:49: the format has no {}; write {} once where the key stands, e.g. "Bearer {}"'],
  ],
  [
    'inject unseen',
    'version: 1\ncredentials:\n  k: { from: file:/etc/key, in: header:x-key, mode: inject }',
    [
      '3:3: credentials.k injects a key, and the command sees no placeholder; add env: NAME, the variable that the command reads',
    ],
  ],
  [
    'secret in env',
    'version: 1\nenv: { set: { OPENAI_API_KEY: abc } }',
    [
      '2:31: env.set.OPENAI_API_KEY writes a secret into the policy; take it out and declare it under credentials with from: env:NAME or file:/path',
    ],
  ],
  [
    'own variable',
    'version: 1\nenv: { set: { HOME: /tmp } }',
    ['2:15: HOME is set by agentjail from the account; leave it out'],
  ],
  [
    'steering variable',
    'version: 1\nenv: { pass: [LD_PRELOAD] }',
    [
      '2:15: LD_PRELOAD steers the programs that start the command; set it in a script that the jail runs',
    ],
  ],
  [
    'number in env',
    'version: 1\nenv: { set: { A: 1 } }',
    ['2:18: env.set.A is a number; write text in quotes: "1"'],
  ],
  [
    'relative path',
    'version: 1\nfs: { deny: [.git/hooks] }',
    ['2:14: ".git/hooks" is no plain path; write ./.git/hooks for the working directory'],
  ],
  [
    'climbing path',
    'version: 1\nfs: { write: [./../x] }',
    ['2:15: "./../x" has dot segments; write the path as it ends up'],
  ],
  [
    'all of the disk',
    'version: 1\nfs: { write: [/] }',
    ['2:15: fs.write opens the whole file system; name the directories'],
  ],
  [
    'bad duration',
    'version: 1\nlimits: { time: 2 hours }',
    ['2:17: "2 hours" is not a duration; write a number and a unit: 30s, 10m, 2h, 1d'],
  ],
  [
    'numbers without a unit',
    'version: 1\nlimits: { time: 5, memory: 512 }',
    [
      '2:17: 5 has no unit; write 5s, 5m or 5h',
      '2:28: 512 has no unit; write 512B, 512MB or 512MiB',
    ],
  ],
  [
    'pids zero',
    'version: 1\nlimits: { pids: 0 }',
    ['2:17: limits.pids is 0; write a whole number from 1 to 4194304'],
  ],
  [
    'rules with three keys wrong',
    'version: 1\nnetwork:\n  allow:\n    - host: a.example.com\n      inspect: http\n      rules: [{ method: [GET, get], path: /**/a/**/b/**/c/**, json: 3 }]',
    [
      '6:31: "get" is not a method; write GET',
      '6:43: the path "/**/a/**/b/**/c/**" has more than three **; write several rules',
      '6:69: network.allow[0].rules[0].json is a number; write a mapping (key: value)',
    ],
  ],
  [
    'NUL',
    'version: 1\nname: "a\\0b"',
    ['2:7: name has a line break or control character in it; write one line of plain text'],
  ],
  [
    'several at once',
    'version: 1\nnaem: x\nnetwork:\n  allow:\n    - "*"\n    - { host: a.example.com, ports: [70000], inspct: sni }\nlimits: { memory: lots }',
    [
      '2:1: unknown key "naem" in the policy; did you mean name?',
      '5:7: "*" grants every name; name the hosts, e.g. api.example.com',
      '6:38: port 70000 is out of range; write a port from 1 to 65535, or a range like "8000-8010"',
      '6:46: unknown key "inspct" in network.allow[1]; did you mean inspect?',
      '7:19: "lots" is not a size; write a number and a unit: 500kB, 2MB, 1GiB',
    ],
  ],
]

t.test('mistakes', async (t) => {
  for (const [title, text, expected] of mistakes) {
    const { problems = [] } = parsePolicy(text, 'p.yaml')
    t.strictSame(
      problems.map(formatProblem),
      expected.map((line) => `p.yaml:${line}`),
      title,
    )
    t.not(problems.length, 0, `${title} is refused`)
  }
})

t.test('no message repeats a secret', async (t) => {
  const secrets = [
    'sk-proj-abcdefghijklmnopqrstuvwx',
    'ghp_abcdefghijklmnopqrstuvwxyz0123456789',
    '123456789:AAabcdefghijklmnopqrstuvwxyz0123456',
    'xoxb-1234567890-abcdefghij',
  ]
  // Wherever it was put by mistake: as a value of any kind, a key, a host, a path.
  const holders = [
    (s: string) => `version: 1\nname: ${s}`,
    (s: string) => `version: 1\n? "${s}"\n: 1`,
    (s: string) => `version: 1\nnetwork: { allow: ["${s}"] }`,
    (s: string) => `version: 1\ncredentials: { k: { from: "${s}", in: "${s}" } }`,
    (s: string) => `version: 1\ncredentials: { "${s}": {} }`,
    (s: string) => `version: 1\nenv: { set: { A: "${s}" }, pass: ["${s}"] }`,
    (s: string) => `version: 1\nlimits: { memory: "${s}" }`,
    (s: string) => `version: 1\nname: "${s}`,
  ]
  for (const secret of secrets) {
    for (const hold of holders) {
      const { problems = [] } = parsePolicy(hold(secret), 'p.yaml')
      const text = problems.map(formatProblem).join('\n')
      t.not(problems.length, 0, 'refused')
      t.notOk(text.includes(secret), 'not repeated')
    }
  }
})

t.test('hostile documents end soon, with a message', async (t) => {
  const texts = [
    '['.repeat(200_000),
    `version: 1\nx: ${'{a: '.repeat(50_000)}`,
    `version: 1\nnetwork: { allow: [${'"*", '.repeat(20_000)}] }`,
    `a: &a [x]\n${Array.from({ length: 5000 }, (_, i) => `b${String(i)}: [*a, *a]`).join('\n')}`,
    'x'.repeat(2 * 1024 * 1024),
  ]
  for (const text of texts) {
    const { problems = [] } = parsePolicy(text, 'p.yaml')
    t.ok(problems.length > 0 && problems.length <= 100)
  }
})
