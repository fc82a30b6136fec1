/** What the test and the process that plays the internet say to each other (Node's IPC). */

/** Something that reached an address of evil's, or one that nobody was meant to reach. */
export interface Visit {
  /** Milliseconds since the epoch. */
  readonly time: number
  readonly proto: 'tcp' | 'udp'
  readonly local: string
  readonly localPort: number
  readonly remote: string
  readonly remotePort: number
  /** The server name of a TLS hello. */
  readonly sni?: string
  /** Of an HTTP request. */
  readonly request?: { readonly method: string; readonly url: string; readonly host: string }
  /** What was received, latin1; of a request its body. */
  readonly data: string
}

/** A request that a vendor's service answered. */
export interface Served {
  readonly service: string
  readonly host: string
  readonly method: string
  readonly url: string
  readonly headers: Readonly<Record<string, string | string[] | undefined>>
  readonly body: string
  readonly status: number
}

export type Calls = {
  /** A message to the bot, as a Telegram user would send it. */
  pushTelegram: (text: string, chat: number) => void
  /** Puts a marker on the wire. */
  mark: (text: string) => void
  /** Answered once everything before it was reported. */
  sync: () => void
}

export type ToInternet = {
  readonly id: number
  readonly call: keyof Calls
  readonly args: unknown[]
}

export type FromInternet =
  | { readonly type: 'ready' }
  | { readonly type: 'visit'; readonly visit: Visit }
  | { readonly type: 'served'; readonly served: Served }
  | { readonly type: 'answer'; readonly id: number; readonly error?: string }
