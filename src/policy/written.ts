import { Document, isSeq, visit } from 'yaml'

/** A value on one line, as it would be written in a document. */
export const written = (value: unknown): string => {
  const document = new Document(value)
  visit(document, {
    Collection: (_, node) => {
      node.flow = true
    },
  })
  return padded(document).toString({ lineWidth: 0 }).trim()
}

/** Gives the document our spaces: `{ a: 1 }` and `[1, 2]`, where the library has one answer for both. */
export const padded = (document: Document): Document => {
  visit(document, {
    Collection: (_, node) => {
      const flowCollectionPadding = isSeq(node) ? '' : ' '
      const plain = node.toString
      node.toString = (context, ...rest) => plain.call(node, context && { ...context, flowCollectionPadding }, ...rest)
    },
  })
  return document
}
