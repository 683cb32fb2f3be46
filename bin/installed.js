// Node strips types from no file under node_modules. Where Sluice is installed as a package, bin/sluice loads this first,
// and Sluice's own files are stripped here; those of other packages stay Node's affair.
import { readFileSync } from 'node:fs'
import { registerHooks, stripTypeScriptTypes } from 'node:module'

const OURS = new URL('../src/', import.meta.url).href

registerHooks({
  load: (url, context, next) => {
    if (!url.startsWith(OURS) || !url.endsWith('.ts')) return next(url, context)
    const source = stripTypeScriptTypes(readFileSync(new URL(url), 'utf8'))
    return { format: 'module', source, shortCircuit: true }
  },
})
