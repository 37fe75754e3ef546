/** The tools of `vreg mcp`, in the order in which clients list them. */
import { splitList } from '../config/values.ts';
import { suggestion } from '../help/suggest.ts';
import { VregError } from '../protocol/errors.ts';
import { READ_TOOLS } from './read-tools.ts';
import type { Tool } from './tool.ts';
import { wait } from './wait-tool.ts';
import { WRITE_TOOLS } from './write-tools.ts';

/** At most ten, because each client loads all of them into its model's context. */
export const TOOLS: readonly Tool[] = [
  WRITE_TOOLS.register,
  READ_TOOLS.list,
  READ_TOOLS.discover,
  WRITE_TOOLS.heartbeat,
  WRITE_TOOLS.update,
  WRITE_TOOLS.deregister,
  READ_TOOLS.status,
  READ_TOOLS.why,
  READ_TOOLS.lineage,
  wait,
];

/**
 * @param names comma-separated names, each of which may be given more than once; undefined for all tools
 * @throws VregError USAGE for an unknown name, or for one that `readOnly` excludes
 */
export function selectTools(names: readonly string[] | undefined, readOnly: boolean): Tool[] {
  const known = TOOLS.map(({ name }) => name);
  const wanted = names?.flatMap(splitList);
  for (const name of wanted ?? []) {
    const tool = TOOLS.find((each) => each.name === name);
    if (!tool)
      throw new VregError('USAGE', `unknown tool "${name}"${suggestion(name, known)}`, {
        field: 'tools',
        hint: `one or more of: ${known.join(', ')}`,
      });
    if (readOnly && tool.change)
      throw new VregError('USAGE', `--read-only excludes the tool ${name}`, {
        field: 'tools',
        hint: 'omit --read-only, or omit the tool',
      });
  }
  return TOOLS.filter(({ name, change }) => (wanted?.includes(name) ?? true) && !(readOnly && change));
}
