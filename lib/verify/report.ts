/**
 * Findings as a table for people. Pure.
 */
import { failures } from './judge.js'
import type { Finding } from './types.js'

export function renderFindings(
  findings: readonly Finding[],
  about: { readonly policy: string; readonly isolation: string; readonly colour: boolean },
): string {
  const width = Math.max(...findings.map(({ title }) => title.length))
  const paint = (code: string, text: string): string =>
    about.colour ? `\u001b[${code}m${text}\u001b[0m` : text
  const word = ({ verdict, documented }: Finding): string => {
    switch (verdict) {
      case 'closed':
        return paint('32', 'closed      ')
      case 'open':
        return documented ? paint('33', 'OPEN (known)') : paint('31;1', 'OPEN        ')
      case 'not-testable':
        return paint('33', 'not testable')
    }
  }
  const lines = findings.flatMap((finding, index) => {
    const head = findings[index - 1]?.group === finding.group ? [] : [`\n${finding.group}`]
    return [
      ...head,
      `  ${finding.title.padEnd(width)}  ${word(finding)}  ${printable(finding.why)}`,
    ]
  })
  const count = (verdict: Finding['verdict']): number =>
    findings.filter((finding) => finding.verdict === verdict).length
  const bad = failures(findings)
  const known = findings.filter(({ documented }) => documented).length
  return [
    `policy ${about.policy}, isolation ${about.isolation}`,
    ...lines,
    '',
    `${String(count('closed'))} closed, ${String(count('open'))} open${known > 0 ? ` (${String(known)} documented: docs/known-issues.md)` : ''}, ${String(count('not-testable'))} not testable here`,
    bad.length === 0
      ? paint('32', 'Nothing is open that should not be.')
      : paint('31;1', `NOT HELD: ${bad.map(({ id }) => id).join(', ')}`),
    '',
  ].join('\n')
}

/** What comes from inside is printed to a terminal: printable ASCII of one line only. */
function printable(text: string): string {
  return text.replace(/[^ -~]/g, '?').slice(0, 70)
}
