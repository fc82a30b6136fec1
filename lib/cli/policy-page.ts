/**
 * agentjail-policy(5), made of docs/policies.md, so that both say the same. Pure.
 * It reads the Markdown that page is written in: headings, paragraphs, lists, tables, code blocks; the macros are man(7)'s.
 */
import { roff } from './roff.js'

/** @param markdown text of docs/policies.md. @param version of the package. */
export function policyPage(markdown: string, version: string): string {
  const [, ...lines] = markdown.trimEnd().split('\n')
  return [
    `.TH AGENTJAIL-POLICY 5 "" "agentjail ${roff(version)}" "File Formats"`,
    '.SH NAME',
    String.raw`agentjail\-policy \- what a jail may reach and hold`,
    '.SH DESCRIPTION',
    ...blocks(lines).flatMap(block),
    '.SH SEE ALSO',
    '.BR agentjail (1)',
    '',
  ].join('\n')
}

/** Lines that belong together: a code block, or what stands between empty lines. */
function blocks(lines: readonly string[]): string[][] {
  const found: string[][] = [[]]
  let isCode = false
  for (const line of lines) {
    const isFence = line.startsWith('```')
    if (isFence && !isCode) found.push([])
    if (line === '' && !isCode) found.push([])
    else found.at(-1)?.push(line)
    if (isFence && isCode) found.push([])
    if (isFence) isCode = !isCode
  }
  return found.filter(({ length }) => length > 0)
}

function block(lines: string[]): string[] {
  const [first = ''] = lines
  if (first.startsWith('```')) {
    // A comment for editors says nothing on a terminal, and is wider than one.
    const shown = lines.slice(1, -1).filter((line) => !line.startsWith('# yaml-language-server'))
    return ['.PP', '.nf', ...shown.map(roff), '.fi']
  }
  if (first.startsWith('#')) return [`.SH ${roff(plain(first.replace(/^#+ /, '')).toUpperCase())}`]
  if (first.startsWith('|')) return table(lines)
  if (first.startsWith('- ')) {
    const items = lines.join('\n').slice(2).split('\n- ')
    return items.flatMap((item) => ['.IP \\(bu 2', prose(item.replaceAll(/\n */g, ' '))])
  }
  return ['.PP', prose(lines.join(' '))]
}

/** Each row a term, and what the other columns say of it. */
function table(lines: readonly string[]): string[] {
  const cells = (line: string): string[] =>
    line
      .slice(1, -1)
      .split(' | ')
      .map((cell) => cell.replace(/^\|/, '').trim())
  const [head = '', , ...rows] = lines
  const [, , ...titles] = cells(head)
  return rows.flatMap((row) => {
    const [term = '', meaning = '', ...more] = cells(row)
    const rest = titles.flatMap((title, n) => {
      const text = more[n] ?? ''
      return text === '' ? [] : [`${title}: ${text}`]
    })
    const about = [meaning, ...rest].filter((text) => text !== '').join('; ')
    return ['.TP', `.B ${roff(plain(term))}`, prose(`${about}.`)]
  })
}

/** Bold stays; code is as it is written; links are their text. */
function prose(text: string): string {
  return roff(plain(text, true))
    .replaceAll('\u0001', String.raw`\fB`)
    .replaceAll('\u0002', String.raw`\fR`)
}

function plain(text: string, isProse = false): string {
  const [bold, roman] = isProse ? ['\u0001', '\u0002'] : ['', '']
  return text
    .split('`')
    .map((part, n) =>
      n % 2 === 1
        ? `${bold}${part}${roman}`
        : part
            .replaceAll(/\*\*([^*]+)\*\*/g, `${bold}$1${roman}`)
            .replaceAll(/\[([^\]]+)\]\([^)]*\)/g, '$1'),
    )
    .join('')
}
