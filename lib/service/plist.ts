/**
 * Prints property lists as XML, as plist(5) and Apple's DTD define them. Pure.
 * Invariant: any text comes back unchanged from a parser, or is refused; nothing can add elements.
 */
import { JailError } from '../errors.js'

export type PlistValue =
  string | number | boolean | readonly PlistValue[] | { readonly [key: string]: PlistValue }

const head = `<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">
<plist version="1.0">
`

export function printPlist(value: PlistValue): string {
  return `${head}${print(value, '')}\n</plist>\n`
}

function print(value: PlistValue, indent: string): string {
  const inner = `${indent}\t`
  if (typeof value === 'string') return `${indent}<string>${escape(value)}</string>`
  if (typeof value === 'boolean') return `${indent}<${String(value)}/>`
  if (typeof value === 'number') {
    if (!Number.isSafeInteger(value)) throw unprintable(String(value))
    return `${indent}<integer>${String(value)}</integer>`
  }
  if (isList(value)) {
    if (value.length === 0) return `${indent}<array/>`
    return `${indent}<array>\n${value.map((each) => `${print(each, inner)}\n`).join('')}${indent}</array>`
  }
  const entries = Object.entries(value).map(
    ([key, each]) => `${inner}<key>${escape(key)}</key>\n${print(each, inner)}\n`,
  )
  return `${indent}<dict>\n${entries.join('')}${indent}</dict>`
}

function isList(value: PlistValue): value is readonly PlistValue[] {
  return Array.isArray(value)
}

function escape(text: string): string {
  // XML 1.0 has no way to write these; a carriage return would come back as a newline.
  if (
    /[\u0000-\u0008\u000b-\u001f\u007f\ufffe\uffff]|[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/.test(
      text,
    )
  )
    throw unprintable(text)
  return text.replace(/&/g, '&amp;').replace(/</g, '&lt;').replace(/>/g, '&gt;')
}

function unprintable(text: string): JailError {
  return new JailError(
    'USAGE',
    `${JSON.stringify(text.slice(0, 80))} cannot stand in a property list`,
    {
      hint: 'leave control characters out of the command and its paths',
    },
  )
}
