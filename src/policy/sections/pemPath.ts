import { mistake, readText } from '../shape.ts'

/** The path of a PEM file, never its contents: documents are copied, mailed and committed; keys must not be. */
export const pemPath = readText('the path of a PEM file', (text) => {
  if (text.includes('-----BEGIN'))
    return mistake('expected the path of a PEM file, not its contents: keys are never inline')
  return text === '' ? mistake('expected the path of a PEM file, not an empty text') : text
})
