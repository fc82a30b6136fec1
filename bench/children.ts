/** The benches of the gate and of the audit log, each a program of its own, as parts. */
import { execFile } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { digits } from './statistics.js'
import { barPlot } from './svg.js'
import type { Bar, Options, Part } from './types.js'

async function runScript(name: string, ...args: readonly string[]): Promise<string> {
  const script = fileURLToPath(new URL(name, import.meta.url))
  const { stdout } = await promisify(execFile)(process.execPath, [script, ...args], {
    maxBuffer: 2 ** 26,
    timeout: 300_000,
  })
  return stdout
}

interface GateReport {
  readonly missing: readonly string[]
  readonly medians: Readonly<Record<string, number>>
  readonly ratios: Readonly<Record<string, number>>
}

interface HttpReport {
  readonly missing: readonly string[]
  readonly medians: Readonly<Record<string, number>>
  readonly overSrt: Readonly<Record<string, number>>
}

const keys = ['downMBs', 'upMBs', 'connectionsPerSecond', 'p50ms', 'p99ms'] as const
const httpKeys = ['requestsPerSecond', 'connectionsPerSecond', 'downMBs', 'p50ms', 'p99ms'] as const

const names: Readonly<Record<string, string>> = {
  bare: 'bare Node: TLS ended on both sides, nothing read',
  gate: 'HTTP gate',
  srt: "srt's proxy, ending TLS",
}

export async function gate({ quick }: Options): Promise<Part> {
  const rounds = quick ? '1' : '5'
  const sni = JSON.parse(await runScript('gate.js', rounds)) as GateReport
  const http = JSON.parse(await runScript('http-gate.js', rounds)) as HttpReport
  const { medians, ratios } = sni
  const bar = (
    text: string,
    figure: number | undefined,
    sense: Bar['sense'],
    limit: number,
    unit: string,
  ): Bar => ({ text, figure, sense, limit, unit })
  return {
    title: 'Gate and DNS filter',
    bars: [
      bar('SNI gate: download, over direct', ratios['down'], 'at least', 0.6, 'x'),
      bar('SNI gate: upload, over direct', ratios['up'], 'at least', 0.6, 'x'),
      bar("SNI gate: download, over srt's proxy", ratios['downOverSrt'], 'at least', 2, 'x'),
      bar("SNI gate: upload, over srt's proxy", ratios['upOverSrt'], 'at least', 2, 'x'),
      bar(
        "SNI gate: connections/s, over srt's proxy",
        ratios['connectionsOverSrt'],
        'at least',
        2,
        'x',
      ),
      bar(
        'HTTP gate: time to first byte added, p50',
        (http.medians['gate p50ms'] ?? NaN) - (http.medians['direct p50ms'] ?? NaN),
        'at most',
        2,
        'ms',
      ),
      ...(
        [
          ['requests/s', 'requestsPerSecond'],
          ['new connections/s', 'connectionsPerSecond'],
          ['download', 'downMBs'],
        ] as const
      ).map(([text, key]) =>
        bar(
          `HTTP gate: ${text}, over srt's proxy that ends TLS`,
          http.overSrt[key],
          'at least',
          2,
          'x',
        ),
      ),
      bar(
        'DNS filter: added to a bare UDP echo in Node, name already pinned, p50',
        (medians['dns p50ms'] ?? NaN) - (medians['echo p50ms'] ?? NaN),
        'at most',
        0.1,
        'ms',
      ),
      bar('DNS filter: pinned name', medians['dns pinnedPerSecond'], 'at least', 20_000, 'q/s'),
    ],
    tables: [
      {
        title:
          'Client, gate and server are processes of their own on loopback; one connection for bytes and round trips',
        head: ['route', 'download MB/s', 'upload MB/s', 'connections/s', 'p50 ms', 'p99 ms'],
        rows: ['direct', 'gate', 'srt']
          .filter((route) => `${route} downMBs` in medians)
          .map((route) => [route, ...keys.map((key) => digits(medians[`${route} ${key}`]))]),
      },
      {
        title:
          'HTTP gate: TLS ended on both sides, method and path of each request judged; the gate compares the key as well',
        head: [
          'route',
          'requests/s',
          'new connections/s',
          'download MB/s',
          'first byte p50 ms',
          'p99 ms',
        ],
        rows: ['direct', 'bare', 'gate', 'srt']
          .filter((route) => `${route} downMBs` in http.medians)
          .map((route) => [
            names[route] ?? route,
            ...httpKeys.map((key) => digits(http.medians[`${route} ${key}`])),
          ]),
      },
      {
        title:
          'DNS over UDP, a name already pinned; the echo answers any datagram and decides nothing',
        head: ['server', 'p50 ms', 'p99 ms', 'queries/s, 32 in flight'],
        rows: ['echo', 'dns'].map((server) => [
          server === 'dns' ? 'DNS filter' : 'UDP echo in Node',
          digits(medians[`${server} p50ms`]),
          digits(medians[`${server} p99ms`]),
          digits(medians[`${server} pinnedPerSecond`]),
        ]),
      },
    ],
    plots: [
      {
        name: 'gate-throughput',
        svg: barPlot(
          'Download through one connection, median',
          'MB/s',
          ['direct', 'gate', 'srt'].flatMap((route): [string, number][] =>
            `${route} downMBs` in medians
              ? [
                  [
                    route === 'gate' ? 'agentjail, SNI gate' : route,
                    medians[`${route} downMBs`] ?? 0,
                  ],
                ]
              : [],
          ),
        ),
      },
    ],
    missing: [...new Set([...sni.missing, ...http.missing])],
    notes: [],
    raw: { sni, http },
  }
}

interface AuditLine {
  readonly title: string
  readonly sent: number
  readonly perSecond: number
  readonly written: number
  readonly dropped: number
  readonly uncounted: number
  readonly inFiles: number
  readonly microsecondsEach: number
}

export async function audit({ quick }: Options): Promise<Part> {
  const text = await runScript('audit.js', '50000', quick ? '1' : '3')
  const lines = text
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as AuditLine)
  const bars = lines.flatMap(({ title, perSecond, uncounted }): Bar[] => [
    {
      ...{ text: `audit log, ${title}: events taken`, unit: 'events/s', sense: 'at least' },
      ...{ figure: perSecond, limit: 49_000 },
    },
    {
      ...{ text: `audit log, ${title}: lost uncounted`, unit: 'events', sense: 'at most' },
      ...{ figure: uncounted, limit: 0 },
    },
  ])
  return {
    title: 'Audit log',
    bars,
    tables: [
      {
        title: '50,000 decisions a second, in batches as the gate sends them',
        head: ['limits', 'sent', 'a second', 'written', 'dropped and counted', 'lost', 'µs each'],
        rows: lines.map((line) => [
          line.title,
          ...[line.sent, line.perSecond, line.written, line.dropped, line.uncounted].map((n) =>
            n.toLocaleString('en'),
          ),
          digits(line.microsecondsEach),
        ]),
      },
    ],
    plots: [],
    missing: [],
    notes: [
      'Under the default rate limit what is above it is counted and dropped, and a record says how much.',
    ],
    raw: lines,
  }
}
