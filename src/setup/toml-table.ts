/** The table of the MCP server in Codex' `config.toml`. Everything else in the file stays as it is. */
import { isDeepStrictEqual } from 'node:util';
import { parse } from 'smol-toml';
import { type Change, invalid } from './change.ts';

/** @param name of the table in `mcp_servers` */
export function addServer(file: string, before: string | undefined, name: string, server: Server): Change {
  const text = before ?? '';
  const known = serversIn(file, text)[name];
  if (known !== undefined) return { text: before, isEdited: !isDeepStrictEqual(known, { ...server }) };
  const ended = text === '' || text.endsWith('\n') ? text : `${text}\n`;
  // An empty line separates it from what is there, also from nothing, so that --remove knows whether it has created the file.
  const added = `${before === undefined ? '' : '\n'}${blockOf(name, server)}`;
  const after = ended + (ended.includes('\r\n') ? withReturns(added) : added);
  if (!isTable(after, name, server))
    throw invalid(
      file,
      'cannot be extended, because mcp_servers is no table of its own: write it as [mcp_servers.NAME]',
    );
  return { text: after, isEdited: false };
}

/** Removes the table if it is as {@link addServer} wrote it; the file too if that has created it. */
export function removeServer(file: string, before: string | undefined, name: string, server: Server): Change {
  const known = before === undefined ? undefined : serversIn(file, before)[name];
  if (before === undefined || known === undefined) return { text: before, isEdited: false };
  const block = blockOf(name, server);
  // With the empty line before it, and with each kind of line ending.
  const found = [`\n${block}`, block]
    .flatMap((text) => [withReturns(text), text])
    .find((text) => before.includes(text));
  if (!isDeepStrictEqual(known, { ...server }) || found === undefined) return { text: before, isEdited: true };
  const isCreated = before === found && found.startsWith('#');
  return { text: isCreated ? undefined : before.replace(found, ''), isEdited: false };
}

function withReturns(text: string): string {
  return text.replaceAll('\n', '\r\n');
}

interface Server {
  command: string;
  args: string[];
}

function blockOf(name: string, { command, args }: Server): string {
  return `# Added by vreg setup.\n[mcp_servers.${name}]\ncommand = ${JSON.stringify(command)}\nargs = ${JSON.stringify(args)}\n`;
}

/** False for example if the servers are an inline table, which no later table may extend. */
function isTable(text: string, name: string, server: Server): boolean {
  try {
    return isDeepStrictEqual(parseServers(text)[name], { ...server });
  } catch {
    return false;
  }
}

function serversIn(file: string, text: string): Record<string, unknown> {
  try {
    return parseServers(text);
  } catch (error) {
    throw invalid(file, `is not valid TOML (${(error as Error).message.split('\n', 1)[0]})`);
  }
}

function parseServers(text: string): Record<string, unknown> {
  // Codex reads integers of 64 bits.
  const { mcp_servers: servers = {} } = parse(text, { integersAsBigInt: 'asNeeded' });
  const plain = (_key: string, value: unknown) => (typeof value === 'bigint' ? String(value) : value);
  // The parser creates objects without a prototype.
  return JSON.parse(JSON.stringify(servers, plain)) as Record<string, unknown>;
}
