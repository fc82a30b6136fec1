/**
 * The judge: every frame on the wire between host and internet, from before the host could send.
 * Invariant: what `packets` shows after `sync` includes everything that was sent before it.
 */
import type { ChildProcess } from 'node:child_process'
import { PcapReader, type Packet } from './pcap.js'

/** Where the marker goes: a group that the host never joined, so nothing answers. */
export const marker = { group: '239.255.77.77', port: 7777 } as const

export class Capture {
  #packets: Packet[] = []
  readonly #waiting = new Map<string, () => void>()
  readonly #send: (text: string) => Promise<unknown>
  #failure: Error | undefined
  #count = 0

  /** `send` puts a datagram with this text on the wire, to `marker`. */
  constructor(tcpdump: ChildProcess, send: (text: string) => Promise<unknown>) {
    this.#send = send
    const reader = new PcapReader()
    tcpdump.stdout?.on('data', (chunk: Buffer) => {
      try {
        for (const packet of reader.push(chunk)) this.#take(packet)
      } catch (error) {
        this.#failure = error as Error
      }
    })
  }

  #take(packet: Packet): void {
    if (packet.dst !== marker.group) {
      this.#packets.push(packet)
      return
    }
    const text = packet.payload.toString()
    this.#waiting.get(text)?.()
    this.#waiting.delete(text)
  }

  /** Resolves when everything sent so far has been seen; rejects after 10 s. */
  async sync(): Promise<void> {
    if (this.#failure !== undefined) throw this.#failure
    const text = `marker ${this.#count++}`
    let timer: NodeJS.Timeout | undefined
    const seen = new Promise<void>((resolve, reject) => {
      timer = setTimeout(() => reject(new Error('the capture does not see its marker')), 10_000)
      this.#waiting.set(text, resolve)
    })
    try {
      await Promise.all([this.#send(text), seen])
    } finally {
      clearTimeout(timer)
    }
  }

  /** Syncs, then everything since the start or the last `clear`. */
  async packets(filter: (packet: Packet) => boolean = () => true): Promise<Packet[]> {
    await this.sync()
    return this.#packets.filter(filter)
  }

  /** Syncs, then forgets. */
  async clear(): Promise<void> {
    await this.sync()
    this.#packets = []
  }
}
