/** Writes DNS messages, so that tests can play a server: sound ones, and others. Independent of src/codec. */
export interface WrittenRecord {
  readonly owner: string
  readonly type: 'A' | 'AAAA' | 'CNAME' | 'SRV' | 'SOA' | number
  readonly ttl?: number
  /** An address; a name; `priority weight port target`; the minimum of a SOA; or bytes. */
  readonly data: string | Uint8Array
}

export interface WrittenMessage {
  readonly id?: number
  readonly flags?: number
  readonly question?: readonly [name: string, type: number]
  readonly answers?: readonly WrittenRecord[]
  readonly authorities?: readonly WrittenRecord[]
  readonly additionals?: readonly WrittenRecord[]
}

const TYPES: Readonly<Record<string, number>> = { A: 1, CNAME: 5, SOA: 6, AAAA: 28, SRV: 33 }

const number = (value: number, bytes: 1 | 2 | 4): number[] =>
  Array.from({ length: bytes }, (_, at) => (value >>> ((bytes - 1 - at) * 8)) & 255)

const name = (text: string): number[] =>
  text === '.'
    ? [0]
    : [
        ...text
          .replace(/\.$/, '')
          .split('.')
          .flatMap((label) => [label.length, ...Buffer.from(label, 'latin1')]),
        0,
      ]

const dataOf = ({ type, data }: WrittenRecord): number[] => {
  if (typeof data !== 'string') return [...data]
  if (type === 'A') return data.split('.').map(Number)
  if (type === 'AAAA') {
    const [left = '', right = ''] = data.split('::')
    const groups = (part: string) =>
      part
        .split(':')
        .filter((it) => it !== '')
        .map((it) => Number.parseInt(it, 16))
    const [before, after] = [groups(left), groups(right)]
    return [...before, ...Array(8 - before.length - after.length).fill(0), ...after].flatMap((it) => number(it, 2))
  }
  if (type === 'SRV') {
    const [priority, weight, port, target] = data.split(' ')
    return [...[priority, weight, port].flatMap((it) => number(Number(it), 2)), ...name(target!)]
  }
  if (type === 'SOA')
    return [...name('ns.'), ...name('mail.'), ...[1, 2, 3, 4, Number(data)].flatMap((it) => number(it, 4))]
  return name(data)
}

const record = (it: WrittenRecord): number[] => {
  const data = dataOf(it)
  const type = typeof it.type === 'number' ? it.type : TYPES[it.type]!
  return [
    ...name(it.owner),
    ...number(type, 2),
    ...number(1, 2),
    ...number(it.ttl ?? 60, 4),
    ...number(data.length, 2),
    ...data,
  ]
}

/** The bytes of a message; by default an answer without error. */
export const dnsWire = ({
  id = 7,
  flags = 0x8180,
  question,
  answers = [],
  authorities = [],
  additionals = [],
}: WrittenMessage): Buffer =>
  Buffer.from([
    ...number(id, 2),
    ...number(flags, 2),
    ...number(question === undefined ? 0 : 1, 2),
    ...number(answers.length, 2),
    ...number(authorities.length, 2),
    ...number(additionals.length, 2),
    ...(question === undefined ? [] : [...name(question[0]), ...number(question[1], 2), ...number(1, 2)]),
    ...[...answers, ...authorities, ...additionals].flatMap(record),
  ])
