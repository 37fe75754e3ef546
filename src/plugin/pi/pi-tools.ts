/** The tools of `vreg mcp` as tools of pi: the same names, parameters, results and errors. */
import { withOwnToken } from '../../fleet/self.ts';
import { resultOf } from '../../mcp/answer-text.ts';
import { errorText } from '../../mcp/next-call.ts';
import { type Arguments, checkArguments, type Schema, type Tool } from '../../mcp/tool.ts';
import { TOOLS } from '../../mcp/tools.ts';
import { VregError } from '../../protocol/errors.ts';
import type { PiApi, PiTool, PiToolResult } from './pi-api.ts';
import type { PiSession } from './pi-session.ts';

/** Names of the tools: pi offers all of them. */
const NAMES = TOOLS.map(({ name }) => name);

/** @param session the session at the time of a call */
export function registerTools(pi: PiApi, session: () => PiSession): void {
  for (const tool of TOOLS) pi.registerTool(toolOf(tool, session));
}

function toolOf(tool: Tool, currentSession: () => PiSession): PiTool {
  const { name, description, input } = tool;
  return {
    name,
    label: `Registry: ${name.slice('registry_'.length)}`,
    description,
    parameters: withTypes(input),
    async execute(_callId, params, signal, onUpdate) {
      try {
        const args = checkArguments(tool, params);
        const session = currentSession();
        const progress = async (_done: number, _total: number, message: string) => onUpdate?.(textResult(message));
        const { context, standing } = session;
        const answer = await session.withClient(signal, ({ client, signal }) => {
          const call = { context, client, standing, tools: NAMES, signal, progress };
          return withOwnToken(
            context.config,
            client,
            () => tool.run(call, args),
            (self) => standing.tokenOf(self),
          );
        });
        const { content, structuredContent } = resultOf(answer);
        return textResult(textOf(content), structuredContent);
      } catch (error) {
        if (!(error instanceof VregError)) throw error;
        const { standing, context } = currentSession();
        const args = (params ?? {}) as Arguments;
        const isOwn = await standing.isOwn(context, args.id);
        throw new Error(errorText(error, tool, { args, tools: NAMES, isOwn }), { cause: error });
      }
    },
  };
}

function textResult(text: string, details: unknown = {}): PiToolResult {
  return { content: [{ type: 'text', text }], details };
}

function textOf(content: readonly { type: string; text?: unknown }[]): string {
  return content.map(({ text }) => text).join('\n');
}

/** Some providers of models refuse an enumeration without a type. */
function withTypes(schema: Schema): Schema {
  const { properties, items } = schema;
  const entries = properties && Object.entries(properties).map(([name, each]) => [name, withTypes(each)] as const);
  return {
    ...schema,
    ...(schema.enum ? { type: 'string' } : {}),
    ...(entries ? { properties: Object.fromEntries(entries) } : {}),
    ...(items ? { items: withTypes(items) } : {}),
  };
}
