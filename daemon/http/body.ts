/** How a request's body becomes a value: which media types, which encoding, how deep. */
import type { FastifyBodyParser, FastifyInstance } from 'fastify';
import { VregError } from '../../src/protocol/errors.ts';
import { MAX_DEPTH } from '../../src/protocol/vm.ts';

/**
 * Bodies are JSON whatever these say: the original registry never looked at the type, and `curl -d` and `fetch` send
 * the last two unless told otherwise.
 */
const JSON_TYPES = [
  'application/json',
  /^application\/[\w.-]+\+json/,
  'application/x-www-form-urlencoded',
  'text/plain',
];

/** Lets the app read JSON bodies, and nothing else. */
export function readJsonBodies(app: FastifyInstance): void {
  const parseJson = app.getDefaultJsonParser('error', 'error');
  const decoder = new TextDecoder('utf-8', { fatal: true });

  app.addHook('onRequest', async (request) => {
    // A body without a type is read as JSON, too.
    request.headers['content-type'] ??= 'application/json';
  });

  app.removeAllContentTypeParsers();
  const parse: FastifyBodyParser<Buffer> = (request, body, done) => {
    // A heartbeat or a DELETE may carry the type and no body.
    if (body.length === 0) return done(null, undefined);
    let text: string;
    try {
      text = decoder.decode(body);
    } catch {
      return done(invalidBody('body is not valid UTF-8'));
    }
    parseJson(request, text, (error, value) => {
      if (error) return done(invalidBody(`body is not acceptable JSON: ${error.message}`));
      if (isDeeperThan(value, MAX_DEPTH)) return done(invalidBody(`body is nested more than ${MAX_DEPTH} levels deep`));
      done(null, value);
    });
  };
  for (const type of JSON_TYPES) app.addContentTypeParser(type, { parseAs: 'buffer' }, parse);
  app.addContentTypeParser('*', (request, _payload, done) => {
    if (request.headers['content-length'] === '0') return done(null, undefined);
    const given = request.headers['content-type'];
    done(
      new VregError('UNSUPPORTED_MEDIA_TYPE', `content-type ${given} is not supported: send application/json`, {
        field: 'content-type',
      }),
    );
  });
}

function invalidBody(message: string): VregError {
  return new VregError('INVALID', message, { field: 'body' });
}

/** Walks without recursion, since what it guards against is a stack that overflows. */
function isDeeperThan(value: unknown, limit: number): boolean {
  let level = [value];
  for (let depth = 0; level.length > 0; depth++) {
    if (depth > limit) return true;
    level = level.flatMap((item) => (typeof item === 'object' && item !== null ? Object.values(item) : []));
  }
  return false;
}
