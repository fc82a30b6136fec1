/**
 * Messages of nf_tables, as <linux/netlink.h> and <linux/netfilter/nf_tables.h> lay them out: where nft is not installed,
 * the kernel still has what it speaks to. Pure.
 */
import { endianness } from 'node:os'

const isLittle = endianness() === 'LE'

export type Attribute = readonly [type: number, value: Buffer | string | readonly Attribute[]]

/** 32 bits, in the network's order, as nf_tables has its numbers. */
export function be32(value: number): Buffer {
  const buffer = Buffer.alloc(4)
  buffer.writeInt32BE(value | 0)
  return buffer
}

/** 32 bits, in the machine's order: what a register holds. */
export function host32(value: number): Buffer {
  return isLittle ? be32(value).reverse() : be32(value)
}

function host16(value: number): Buffer {
  const buffer = Buffer.alloc(2)
  if (isLittle) buffer.writeUInt16LE(value)
  else buffer.writeUInt16BE(value)
  return buffer
}

/** One after another, each filled up to four bytes. */
export function encodeAttributes(attributes: readonly Attribute[]): Buffer {
  return Buffer.concat(
    attributes.map(([type, value]) => {
      const payload = Buffer.isBuffer(value)
        ? value
        : typeof value === 'string'
          ? Buffer.from(`${value}\0`)
          : encodeAttributes(value)
      const padding = Buffer.alloc((4 - (payload.length % 4)) % 4)
      return Buffer.concat([host16(payload.length + 4), host16(type), payload, padding])
    }),
  )
}

const nftables = 10
const inet = 1
const isRequest = 1
const flags = { create: 0x400, append: 0x800, dump: 0x300 } as const

export const messages = {
  newTable: 0,
  getTable: 1,
  newChain: 3,
  getChain: 4,
  newRule: 6,
  getRule: 7,
} as const

function encodeMessage(
  type: number,
  flag: number,
  family: number,
  resource: number,
  body: Buffer,
): Buffer {
  const length = 16 + 4 + body.length
  // Sequence 1, from the kernel's choice of port; then family, version 0, and the resource in the network's order.
  return Buffer.concat([
    ...[host32(length), host16(type), host16(flag | isRequest), host32(1), host32(0)],
    ...[Buffer.from([family, 0, resource >> 8, resource & 0xff]), body],
  ])
}

/** A message that changes; `append`: at the end of what is there. */
export const change = (
  type: number,
  attributes: readonly Attribute[],
  append: 'append' | 'create' = 'create',
): Buffer =>
  encodeMessage(
    (nftables << 8) | type,
    flags.create | (append === 'append' ? flags.append : 0),
    inet,
    0,
    encodeAttributes(attributes),
  )

/** A message that asks; `all`: for everything that matches. */
export const ask = (type: number, attributes: readonly Attribute[], all: boolean): Buffer =>
  encodeMessage((nftables << 8) | type, all ? flags.dump : 0, inet, 0, encodeAttributes(attributes))

/** All of it or none. */
export function transaction(changes: readonly Buffer[]): Buffer {
  const [begin, end] = [0x10, 0x11]
  const none = Buffer.alloc(0)
  return Buffer.concat([
    encodeMessage(begin, 0, 0, nftables, none),
    ...changes,
    encodeMessage(end, 0, 0, nftables, none),
  ])
}

export interface Answer {
  /** Within nf_tables. */
  readonly type: number
  /** By type; a type that comes twice is there once, as its last. */
  readonly attributes: ReadonlyMap<number, Buffer>
}

/** @param message one whole message of the kernel's; undefined: none of nf_tables. */
export function decode(message: Buffer): Answer | undefined {
  if (message.length < 20) return undefined
  const type = isLittle ? message.readUInt16LE(4) : message.readUInt16BE(4)
  if (type >> 8 !== nftables) return undefined
  return { type: type & 0xff, attributes: decodeAttributes(message.subarray(20)) }
}

function decodeAttributes(bytes: Buffer): Map<number, Buffer> {
  const found = new Map<number, Buffer>()
  for (let at = 0; at + 4 <= bytes.length;) {
    const length = isLittle ? bytes.readUInt16LE(at) : bytes.readUInt16BE(at)
    const type = isLittle ? bytes.readUInt16LE(at + 2) : bytes.readUInt16BE(at + 2)
    if (length < 4) break
    // The two highest bits say how the value is laid out.
    found.set(type & 0x3fff, bytes.subarray(at + 4, at + length))
    at += (length + 3) & ~3
  }
  return found
}
