import { named, object } from '../shape.ts'
import { pemPath } from './pemPath.ts'
import { section } from './section.ts'

export const trust = section({
  shape: named(object({ ca: pemPath })),
  says: 'roots by name: `ca`, a PEM file of one or more certificates that peers are verified against; relative to this document',
  byName: true,
  onReload: true,
  resolve: (value, open) => Object.fromEntries(Object.entries(value).map(([name, it]) => [name, { ca: open(it.ca) }])),
})
