/** Long lists of plain names, which do not go through the YAML parser: what comes out is what it would give. */
import t from 'tap'
import { parsePolicy } from '../lib/policy/parse.js'
import { putPlainLists, takePlainLists } from '../lib/policy/read/plain-lists.js'
import { parseDocument } from 'yaml'

const names = (count: number, indent = '    ', tail = ''): string =>
  Array.from(
    { length: count },
    (_, n) => `${indent}- host${String(n)}.example.com${n % 7 === 0 ? ':8443' : ''}${tail}\n`,
  ).join('')
const head = 'version: 1\nname: large\n'
const net = `${head}network:\n  allow:\n`

/** A list ends where a line is other than plain: a comment behind each leaves all of it to the YAML parser. */
const whole = (text: string): string =>
  text.replace(/^ *- [a-z0-9.-]+(?::\d+)?$(?!\n {6})/gm, (line) => `${line} #`)

const texts: Readonly<Record<string, string>> = {
  'one list': net + names(200),
  'at the indentation of its key': `${head}network:\n  allow:\n${names(120, '  ')}  ipv6: false\n`,
  'two lists, an entry between': `${net}${names(80)}    - host: a.example.org\n      ports: [22]\n${names(90).replaceAll('host', 'other')}`,
  'a list in another one': `${net}${names(70)}  deny:\n    - 192.0.2.0/24\n`,
  'a mistake within it': net + names(60) + '    - bad_host.example.com\n' + names(60),
  'the same name twice': net + names(60) + names(60),
  'a word behind it': `${net}${names(60)}      and more\n`,
  'what is no list': `${net}    - a.example.com\ndescription: |\n${names(60)}`,
  'broken YAML behind it': `${net}${names(60)}  x: [\n`,
  'lines of Windows': (net + names(60)).replaceAll('\n', '\r\n'),
  'few names': net + names(10),
}

for (const [name, text] of Object.entries(texts)) {
  t.test(name, (t) => {
    const { layer, problems } = parsePolicy(text, 'p.yaml')
    const expected = parsePolicy(
      name === 'what is no list' || name === 'lines of Windows' ? text : whole(text),
      'p.yaml',
    )
    t.same(layer, expected.layer, 'what is granted, and where each grant stands')
    t.same(problems, expected.problems, 'mistakes, at the same places')
    t.end()
  })
}

t.test('it is taken where it can be, and only there', (t) => {
  const taken = (text: string): boolean => {
    const plain = takePlainLists(text)
    return plain !== undefined && putPlainLists(parseDocument(plain.text), plain)
  }
  t.ok(taken(texts['one list'] ?? ''))
  t.ok(taken(texts['two lists, an entry between'] ?? ''))
  t.notOk(taken(texts['what is no list'] ?? ''), 'text of a block')
  t.notOk(taken(texts['few names'] ?? ''))
  t.notOk(taken(texts['broken YAML behind it'] ?? ''))
  t.equal(
    takePlainLists(texts['one list'] ?? '')?.text,
    `${net}    - host0.example.com:8443\n    - host199.example.com\n`,
  )
  t.end()
})

t.test('text in a block keeps every line', (t) => {
  const lines = Array.from({ length: 60 }, (_, n) => `  - n${String(n)}.ab\n`).join('')
  const { layer, problems } = parsePolicy(
    `${net}    - a.example.com\ndescription: >-\n${lines}`,
    'p',
  )
  t.equal(problems, undefined)
  t.match(layer?.description, /^- n0\.ab - n1\.ab .* - n31\.ab .* - n59\.ab$/)
  t.end()
})
