/** passwd(5) and its kin: what is found by a field is what the whole file has, and nothing else. */
import t from 'tap'
import {
  entriesWith,
  groupsOf,
  hasSubordinateRange,
  isExpired,
  linesWith,
  parsePasswd,
} from '../lib/system/passwd.js'

const passwd = [
  'root:x:0:0:root:/root:/bin/bash',
  'aj-mail:x:1900000001:1900000001:agentjail mail:/var/lib/agentjail/home/mail:/usr/sbin/nologin',
  'not an entry with aj-mail in it',
  'aj-mail-2:x:1900000011:1900000011:agentjail mail-2:/var/lib/agentjail/home/mail-2:/usr/sbin/nologin',
  'ann:x:1000:1000::/home/ann:/bin/sh',
].join('\n')

t.test('lines that hold a text: each once, first and last as well', (t) => {
  const text = 'a:1\nb:1\nb:b:2\nc:1'
  t.same(linesWith(text, 'a:'), ['a:1'])
  t.same(linesWith(text, 'b'), ['b:1', 'b:b:2'])
  t.same(linesWith(text, '1'), ['a:1', 'b:1', 'c:1'])
  t.same(linesWith(text, 'c:1'), ['c:1'])
  t.same(linesWith(`${text}\n`, 'c:1'), ['c:1'])
  t.same(linesWith(text, 'd'), [])
  t.same(linesWith('', 'd'), [])
  t.end()
})

t.test('entries by a field are those of the whole file that have it', (t) => {
  const all = parsePasswd(passwd)
  t.equal(all.length, 4)
  for (const entry of all) {
    for (const field of [entry.name, entry.uid, `:${entry.home}:`])
      t.ok(
        entriesWith(passwd, field).some(({ name }) => name === entry.name),
        `${entry.name} by ${String(field)}`,
      )
  }
  t.same(
    entriesWith(passwd, 1_900_000_001).map(({ name }) => name),
    ['aj-mail'],
  )
  t.end()
})

t.test('a user that only looks alike is another', (t) => {
  t.same(groupsOf('adm:x:4:aj-mail-2,ann\nmail:x:8:aj-mail,ann\nempty:x:9:', 'aj-mail'), ['mail'])
  t.same(groupsOf('adm:x:4:ann', 'an'), [])
  const owner = { name: 'aj-mail', uid: 1_900_000_001 }
  t.equal(hasSubordinateRange('aj-mail-2:100000:65536\n', owner), false)
  t.equal(hasSubordinateRange('ann:1900000001:65536\nxaj-mail:1:1\n', owner), false)
  t.equal(hasSubordinateRange('ann:1:1\naj-mail:100000:65536', owner), true)
  t.equal(hasSubordinateRange('ann:1:1\n1900000001:100000:65536\n', owner), true)
  const shadow = 'aj-mail-2:!:20000:::::1:\naj-mail:!:20000::::::\nxaj-mail:!:20000:::::1:'
  t.equal(isExpired(shadow, 'aj-mail'), false)
  t.equal(isExpired(shadow, 'aj-mail-2'), true)
  t.end()
})
