/** Plots as SVG text: bars side by side, and lines over a growing number. */

const width = 640
const left = 190
const escape = (text: string): string => text.replaceAll('&', '&amp;').replaceAll('<', '&lt;')
const frame = (height: number, title: string, body: readonly string[]): string =>
  [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" font-family="sans-serif" font-size="12">`,
    `<rect width="${width}" height="${height}" fill="#fff"/>`,
    `<text x="10" y="20" font-size="14" font-weight="bold">${escape(title)}</text>`,
    ...body,
    '</svg>',
    '',
  ].join('\n')

/** Horizontal bars, with their values. */
export function barPlot(title: string, unit: string, values: readonly [string, number][]): string {
  const most = Math.max(...values.map(([, value]) => value), 1e-9)
  const body = values.flatMap(([name, value], n) => {
    const y = 36 + n * 24
    const length = (value / most) * (width - left - 90)
    return [
      `<text x="${left - 8}" y="${y + 13}" text-anchor="end">${escape(name)}</text>`,
      `<rect x="${left}" y="${y}" width="${length.toFixed(1)}" height="17" fill="${name.startsWith('agentjail') ? '#2468b0' : '#9db6cf'}"/>`,
      `<text x="${(left + length + 6).toFixed(1)}" y="${y + 13}">${Number(value.toPrecision(3))} ${unit}</text>`,
    ]
  })
  return frame(46 + values.length * 24, title, body)
}

export interface Line {
  readonly name: string
  readonly points: readonly (readonly [number, number])[]
}

const colours = ['#2468b0', '#c0562b', '#3a8a4d', '#7a4fa3']

/** Lines over a logarithmic x. */
export function linePlot(title: string, x: string, y: string, lines: readonly Line[]): string {
  const [top, bottom, start, end] = [50, 270, 70, width - 20]
  const all = lines.flatMap(({ points }) => points)
  const logs = all.map(([at]) => Math.log10(Math.max(at, 1)))
  const [low, high] = [Math.min(...logs), Math.max(...logs)]
  const most = Math.max(...all.map(([, value]) => value), 1e-9) * 1.1
  const px = (at: number): number =>
    start + ((Math.log10(Math.max(at, 1)) - low) / (high - low || 1)) * (end - start)
  const py = (value: number): number => bottom - (value / most) * (bottom - top)
  const ticks = [...new Set(all.map(([at]) => at))].map(
    (at) => `<text x="${px(at).toFixed(1)}" y="${bottom + 16}" text-anchor="middle">${at}</text>`,
  )
  const scale = [0, 0.5, 1].map((part) => {
    const value = most * part
    return `<text x="${start - 6}" y="${py(value) + 4}" text-anchor="end">${Number(value.toPrecision(2))}</text><line x1="${start}" x2="${end}" y1="${py(value)}" y2="${py(value)}" stroke="#ddd"/>`
  })
  const drawn = lines.flatMap(({ name, points }, n) => {
    const colour = colours[n % colours.length] ?? '#000'
    const path = points.map(([at, value]) => `${px(at).toFixed(1)},${py(value).toFixed(1)}`)
    return [
      `<polyline points="${path.join(' ')}" fill="none" stroke="${colour}" stroke-width="2"/>`,
      `<text x="${start + 10 + n * 180}" y="40" fill="${colour}">${escape(name)}</text>`,
    ]
  })
  return frame(310, title, [
    ...scale,
    ...ticks,
    ...drawn,
    `<text x="${(start + end) / 2}" y="304" text-anchor="middle">${escape(x)}</text>`,
    `<text x="10" y="40">${escape(y)}</text>`,
  ])
}
