/**
 * The OpenAPI 3.1 document, made from the table of routes. The parsers of requests stay hand-written: their errors name the
 * field, the reason and the next step, which a schema library does not. A test compares the document with real responses.
 */
import { createHash } from 'node:crypto';
import { ERRORS, type ErrorCode, toErrorBody, VregError } from '../../../src/protocol/errors.ts';
import { OPERATIONS, type OperationName } from '../../../src/protocol/operations.ts';
import { mayDo, type Scope } from '../../../src/protocol/token.ts';
import {
  CAUSES,
  COMMON_ERRORS,
  COMMON_HEADERS,
  DETAILS,
  type Details,
  ERROR_EXAMPLES,
  ERROR_HEADERS,
  GET_HEADERS,
  HEADERS,
  OPEN_ERRORS,
  PARAMETERS,
  REQUEST_HEADERS,
} from './details.ts';
import { ref, SCHEMAS, type Schema } from './json-schemas.ts';

/** The part of a row in the table of routes that the document shows. */
interface DescribedRoute {
  readonly method: string;
  readonly path: string;
  readonly query: readonly string[];
  readonly access: Scope | 'any' | 'open';
  readonly enrols?: true;
  readonly readsBody?: unknown;
  readonly isFleetWide?: true;
}

export interface OpenApiDocument {
  json: string;
  /** The strong ETag, without quotes. */
  etag: string;
}

/** Characters of an ETag: enough to tell documents apart. */
const TAG_LENGTH = 16;

export class OpenApi {
  readonly #routes: readonly DescribedRoute[];
  readonly #version: string;
  readonly #cookie: string;
  /** One document for each scope, and another one for its restricted tokens. */
  readonly #documents = new Map<string, OpenApiDocument>();

  /** @param cookie name of the cookie of a session */
  constructor(routes: readonly DescribedRoute[], version: string, cookie: string) {
    this.#routes = routes;
    this.#version = version;
    this.#cookie = cookie;
  }

  /** The document with the routes that a token permits. @param isRestricted the token is for some VMs only */
  of(scope: Scope, isRestricted: boolean): OpenApiDocument {
    const key = isRestricted ? `${scope}, restricted` : scope;
    let document = this.#documents.get(key);
    if (document === undefined) {
      const isHidden = isRestricted ? isHiddenFrom(scope) : () => false;
      const routes = this.#routes.filter(isPermitted(scope)).filter((route) => !isHidden(route));
      const json = JSON.stringify(describe(routes, this.#version, this.#cookie));
      document = { json, etag: createHash('sha256').update(json).digest('hex').slice(0, TAG_LENGTH) };
      this.#documents.set(key, document);
    }
    return document;
  }
}

function isPermitted(scope: Scope): (route: DescribedRoute) => boolean {
  return ({ access, enrols }) =>
    access === 'any' || access === 'open' || mayDo(scope, access) || (enrols === true && scope === 'enrol');
}

/** The restriction of a token applies to its reads only if it cannot do anything else. */
function isHiddenFrom(scope: Scope): (route: DescribedRoute) => boolean {
  return ({ access, isFleetWide }) => isFleetWide === true && (access !== 'read' || scope === 'read');
}

function describe(routes: readonly DescribedRoute[], version: string, cookie: string): Schema {
  const paths: Record<string, Record<string, unknown>> = {};
  for (const route of routes) {
    const path = route.path.replaceAll(/:(\w+)/g, '{$1}');
    paths[path] = { ...paths[path], [route.method.toLowerCase()]: operation(route) };
  }
  return {
    openapi: '3.1.0',
    jsonSchemaDialect: 'https://json-schema.org/draft/2020-12/schema',
    info: {
      title: 'vreg',
      version,
      description: 'The registry of a fleet of VMs. HEAD works for every GET. Unknown fields of a body are ignored.',
      license: { name: 'MIT', identifier: 'MIT' },
    },
    servers: [{ url: '/' }],
    tags: [
      { name: 'compatible', description: 'Routes of the registry in vers-agent-services.' },
      { name: 'addition', description: 'Routes that only vreg has.' },
    ],
    paths,
    components: {
      schemas: SCHEMAS,
      responses: errorResponses(),
      parameters: Object.fromEntries(
        Object.entries(REQUEST_HEADERS).map(([name, parameter]) => [name, { ...parameter, name, in: 'header' }]),
      ),
      headers: Object.fromEntries(
        Object.entries(HEADERS).map(([name, description]) => [name, { description, schema: { type: 'string' } }]),
      ),
      securitySchemes: {
        token: {
          type: 'http',
          scheme: 'bearer',
          description: 'A token of vreg, or VERS_AUTH_TOKEN. A registry without a token requires none.',
        },
        session: {
          type: 'apiKey',
          in: 'cookie',
          name: cookie,
          description:
            'The session of a browser, which POST /ui/login begins. It has the rights of the token that made its link.',
        },
      },
    },
  };
}

function operation(route: DescribedRoute): Schema {
  const { method, path, query, access } = route;
  const name = `${method} ${path}` as OperationName;
  const details = DETAILS[name];
  const summary = OPERATIONS[name];
  const scope = access === 'any' ? 'a token with any scope' : `a token with the scope ${access}`;
  const need = access === 'open' ? 'Requires no token.' : `Requires ${scope}.`;
  const common = access === 'open' ? OPEN_ERRORS : COMMON_ERRORS;
  const statuses = [...common, ...errorsOfRequest(route), ...(details.errors ?? [])].map((code) => ERRORS[code].status);
  // The answers of a probe include a 503 of its own.
  const errors = statuses.filter((status) => details.answers[status] === undefined);
  const headersOfSuccess = [...COMMON_HEADERS, ...(method === 'GET' ? GET_HEADERS : []), ...(details.headers ?? [])];
  return {
    operationId: operationId(method, path),
    summary: `${summary[0]!.toUpperCase()}${summary.slice(1)}`,
    description: [details.description, need].filter(Boolean).join(' '),
    tags: [details.isCompatible ? 'compatible' : 'addition'],
    security: access === 'open' ? [] : [{ token: [] }, { session: [] }],
    parameters: [
      ...[...path.matchAll(/:(\w+)/g)].map(([, id]) => ({
        ...PARAMETERS[id!],
        name: id,
        in: 'path',
        required: true,
      })),
      ...query.map((key) => ({ ...(details.parameters?.[key] ?? PARAMETERS[key]), name: key, in: 'query' })),
      ...Object.entries(details.requestHeaders ?? {}).map(([key, header]) => ({ ...header, name: key, in: 'header' })),
      ...Object.keys(REQUEST_HEADERS).map((key) => ({ $ref: `#/components/parameters/${key}` })),
    ],
    ...(details.body === undefined
      ? {}
      : {
          requestBody: {
            required: details.body !== 'AgentHeartbeat',
            content: { 'application/json': { schema: ref(details.body) } },
          },
        }),
    responses: {
      ...Object.fromEntries(
        Object.entries(details.answers).map(([status, answer]) => [status, response(headersOfSuccess, answer)]),
      ),
      ...Object.fromEntries(errors.map((status) => [status, { $ref: responseOf(status) }])),
    },
  };
}

/** Errors of the parts of a request, as the pipeline checks them. */
function errorsOfRequest({ method, path, query, readsBody }: DescribedRoute): ErrorCode[] {
  return [
    ...(path.includes(':') ? (['URI_TOO_LONG'] as const) : []),
    ...(query.includes('minPosition') ? (['PRECONDITION_FAILED', 'STORE_FAILED'] as const) : []),
    ...(method === 'GET' ? [] : (['TOO_LARGE'] as const)),
    // A body that a route can ignore may have any type.
    ...(method === 'GET' || method === 'DELETE' || readsBody ? [] : (['UNSUPPORTED_MEDIA_TYPE'] as const)),
  ];
}

/** `GET /registry/vms/:id/why` is `getVmsIdWhy`, and `GET /ui/` is `getUiPage`, unlike `GET /ui`. */
function operationId(method: string, path: string): string {
  const words = path.split(/[^a-z]+/i).filter((word) => word !== '' && word !== 'registry');
  if (path.endsWith('/')) words.push('page');
  return method.toLowerCase() + words.map((word) => word[0]!.toUpperCase() + word.slice(1)).join('');
}

function response(headers: readonly string[], answer: Details['answers'][number]): Schema {
  const common = { headers: refsTo(headers) };
  if (answer === '') return { description: 'No body.', ...common };
  if (typeof answer === 'string')
    return { description: answer, ...common, content: { 'application/json': { schema: ref(answer) } } };
  const content = Object.entries(answer).map(([type, example]) => [
    type,
    {
      schema: type === 'application/json' ? { type: 'object' } : { type: 'string' },
      ...(example === '' ? {} : { example }),
    },
  ]);
  return { description: Object.keys(answer).join(' or '), ...common, content: Object.fromEntries(content) };
}

function refsTo(headers: readonly string[]): Schema {
  return Object.fromEntries(headers.map((name) => [name, { $ref: `#/components/headers/${name}` }]));
}

function responseOf(status: number): string {
  return `#/components/responses/${status}`;
}

/** One response for each status of the table of errors, with an example of each of its errors. */
function errorResponses(): Schema {
  const byStatus: Record<number, ErrorCode[]> = {};
  for (const code of Object.keys(CAUSES) as ErrorCode[]) {
    const { status } = ERRORS[code];
    byStatus[status] = [...(byStatus[status] ?? []), code];
  }
  return Object.fromEntries(
    Object.entries(byStatus).map(([status, codes]) => [
      status,
      {
        description: codes.map((code) => `${code}: ${CAUSES[code]}`).join('; '),
        headers: refsTo([...COMMON_HEADERS, ...GET_HEADERS, ...ERROR_HEADERS]),
        content: {
          'application/json': {
            schema: ref('Error'),
            examples: Object.fromEntries(
              codes.map((code) => [code, { summary: CAUSES[code], value: exampleOf(code) }]),
            ),
          },
        },
      },
    ]),
  );
}

function exampleOf(code: ErrorCode): object {
  const { message, ...details } = ERROR_EXAMPLES[code]!;
  return toErrorBody(new VregError(code, message, details));
}
