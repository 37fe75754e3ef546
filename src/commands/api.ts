import { defineCommand } from '../command.ts';
import { readInput, rejectEmpty } from '../fleet/import-file.ts';
import { PATHS } from '../protocol/api.ts';
import { VregError } from '../protocol/errors.ts';
import { OPERATIONS } from '../protocol/operations.ts';
import { maskName } from '../protocol/redact.ts';

const METHODS = ['GET', 'POST', 'PUT', 'PATCH', 'DELETE'] as const;

/** Paths without parameters. */
const PLAIN_PATHS = Object.values(PATHS).filter((path) => typeof path === 'string');

export const api = defineCommand<{ file?: string }>({
  name: 'api',
  summary: 'send a raw API request',
  description:
    'Sends a request with the usual settings (URL, token, certificates) and prints the response body as received, even if it is an error. If the response echoes the token, the token is masked.',
  arguments: [
    { name: 'method', about: 'HTTP method', values: METHODS },
    { name: 'path', about: 'path with query', offers: PLAIN_PATHS },
  ],
  flags: [{ flags: '-f, --file <file>', about: 'request body: a file, or - for stdin', file: true }],
  table: { title: 'Routes', rows: Object.entries(OPERATIONS) },
  examples: [
    { about: 'list the workers', command: "vreg api GET '/registry/vms?role=worker'" },
    { about: 'pause a VM', command: `echo '{"status":"paused"}' | vreg api PATCH /registry/vms/abc-123-def -f -` },
    { about: 'check the health of the registry', command: 'vreg api GET /health' },
  ],
  exits: [2, 3, 4, 6, 8],
  async run(context, [method, path], { file }) {
    const verb = method!.toUpperCase();
    if (!METHODS.some((known) => known === verb)) {
      throw new VregError('USAGE', `invalid method "${method}"`, {
        field: 'method',
        hint: `one of: ${METHODS.join(', ')}`,
      });
    }
    if (!/^\/[!-~]*$/.test(path!))
      throw new VregError('USAGE', `invalid path "${maskName(path!)}"`, {
        field: 'path',
        hint: 'use a URL-encoded path that begins with /, for example /health',
      });
    const body = file === undefined ? undefined : await readInput(context, file);
    if (file !== undefined) rejectEmpty(body!, file);
    const reply = await context.client().raw(verb, path!, body);
    const { status, headers, text } = reply;
    const type = String(headers['content-type'] ?? 'text/plain');
    if (!/json|^text\//.test(type)) {
      throw new VregError('USAGE', `the response has the type ${type}, which is not text`, {
        field: 'path',
        hint: 'for a backup, use: vreg backup FILE',
      });
    }
    context.io.out(text === '' || text.endsWith('\n') ? text : `${text}\n`);
    if (status >= 400) throw context.client().refusal(reply, `${verb} ${path}: HTTP ${status}`);
  },
});
