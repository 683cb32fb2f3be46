import { readFileSync } from 'node:fs'
import { Ajv, type ValidateFunction } from 'ajv'
import { Ajv2020 } from 'ajv/dist/2020.js'

const published = JSON.parse(
  readFileSync(new URL('../fixtures/ndc/responses.schema.json', import.meta.url), 'utf8'),
) as object

const draft7 = new Ajv({ strict: false, formats: { uint: true, uint8: true, uint32: true, int32: true, double: true } })
draft7.addSchema(published, 'ndc')

/** Says what is wrong with an answer by the published NDC schema; empty when nothing is. */
export const ndcMistakes = (name: string, value: unknown): string => {
  const validate = draft7.getSchema(`ndc#/definitions/${name}`) as ValidateFunction
  return validate(value) ? '' : draft7.errorsText(validate.errors)
}

/** Says what is wrong with a value by a schema of an OpenAPI 3.1 document (JSON Schema 2020-12). */
export const openApiMistakes = (document: object): ((schema: object, value: unknown) => string) => {
  const ajv = new Ajv2020({ strict: false, allErrors: true })
  ajv.addSchema({ $id: 'document', ...document })
  return (schema, value) => {
    const local = JSON.parse(JSON.stringify(schema).replaceAll('"#/', '"document#/')) as object
    return ajv.validate(local, value) ? '' : ajv.errorsText()
  }
}
