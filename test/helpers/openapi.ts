/** Validates responses against the OpenAPI document of a registry. */
import Ajv2020 from 'ajv/dist/2020.js';
import type { OpenApi } from '../../daemon/http/openapi/document.ts';

interface Parameter {
  name: string;
  in: string;
  description: string;
}

interface Described {
  operationId: string;
  summary: string;
  /** A reference if several operations share the parameter. */
  parameters: (Parameter | { $ref: string })[];
  requestBody?: { content: Record<string, { schema: object }> };
  responses: Record<
    string,
    {
      $ref?: string;
      headers?: object;
      content?: Record<string, { schema: object; examples?: Record<string, { value: unknown }> }>;
    }
  >;
}

export interface Document {
  openapi: string;
  info: { version: string };
  paths: Record<string, Record<string, Described>>;
  components: { responses: Described['responses']; parameters: Record<string, Parameter> };
}

/** Headers that belong to the connection or to the media type, which OpenAPI describes elsewhere. */
const TRANSPORT: ReadonlySet<string> = new Set([
  'connection',
  'content-length',
  'content-type',
  'date',
  'keep-alive',
  'transfer-encoding',
]);

export function parseDocument(json: ReturnType<OpenApi['of']>['json']): Document {
  return JSON.parse(json) as Document;
}

/** The operation of a route in the table of routes, such as `/registry/vms/:id`. */
export function operationOf({ paths }: Document, method: string, path: string): Described | undefined {
  return paths[path.replaceAll(/:(\w+)/g, '{$1}')]?.[method.toLowerCase()];
}

/** The names of the parameters of an operation. @param place `path`, `query` or `header` */
export function parametersOf({ components }: Document, { parameters }: Described, place: string): string[] {
  const all = parameters.map((each) => ('$ref' in each ? components.parameters[each.$ref.split('/').at(-1)!]! : each));
  return all.filter((each) => each.in === place && each.description !== '').map(({ name }) => name);
}

/** Checks answers against a document. */
export class AnswerValidator {
  readonly #document: Document;
  readonly #ajv = new Ajv2020.default({ strict: false, validateFormats: false, allErrors: true });

  constructor(document: Document) {
    this.#document = document;
    this.#ajv.addSchema(document, 'document');
  }

  /** @returns what differs from the document, or an empty list */
  faultsOf(
    method: string,
    path: string,
    { status, headers, text }: { status: number; headers: Headers; text: string },
  ): string[] {
    const described = operationOf(this.#document, method, path)?.responses[status];
    if (!described) return [`the status ${status} is not described`];
    const { $ref } = described;
    const response = $ref === undefined ? described : this.#document.components.responses[$ref.split('/').at(-1)!]!;
    const known = Object.keys(response.headers ?? {});
    const unknown = [...headers.keys()].filter((name) => !TRANSPORT.has(name) && !known.includes(name));
    const faults = unknown.map((name) => `the header ${name} is not described`);
    const type = headers.get('content-type')?.split(';')[0];
    if (text === '') return faults;
    const content = response.content?.[type!];
    if (!content) return [...faults, `the media type ${type} is not described`];
    if (type !== 'application/json') return faults;
    const pointer =
      $ref ?? `#/paths/${escaped(path.replaceAll(/:(\w+)/g, '{$1}'))}/${method.toLowerCase()}/responses/${status}`;
    const check = this.#ajv.getSchema(`document${pointer}/content/${escaped(type)}/schema`)!;
    if (!check(JSON.parse(text)))
      faults.push(
        ...(check.errors ?? []).map(
          ({ instancePath, message, params }) => `${instancePath} ${message} ${JSON.stringify(params)}`,
        ),
      );
    return faults;
  }

  /** The headers that a response of an operation may have, according to the document. */
  headersOf(method: string, path: string, status: number): string[] {
    return Object.keys(operationOf(this.#document, method, path)?.responses[status]?.headers ?? {});
  }

  /** @returns why the example of an error does not match its schema, or an empty list */
  faultsOfError(example: unknown): string[] {
    const check = this.#ajv.getSchema('document#/components/schemas/Error')!;
    return check(example) ? [] : (check.errors ?? []).map(({ instancePath, message }) => `${instancePath} ${message}`);
  }

  /** @returns why a request body does not match its schema, or an empty list */
  faultsOfBody(method: string, path: string, body: unknown): string[] {
    const pointer = `#/paths/${escaped(path.replaceAll(/:(\w+)/g, '{$1}'))}/${method.toLowerCase()}/requestBody/content/application~1json/schema`;
    const check = this.#ajv.getSchema(`document${pointer}`)!;
    return check(body) ? [] : (check.errors ?? []).map(({ instancePath, message }) => `${instancePath} ${message}`);
  }
}

/** A name in a JSON pointer within a URI. */
function escaped(name: string): string {
  return encodeURIComponent(name.replaceAll('~', '~0').replaceAll('/', '~1'));
}
