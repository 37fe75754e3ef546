/**
 * The part of pi's extension API that the extension uses (pi, docs/extensions.md). pi is no dependency: it passes this object to the
 * extension, and the extension contains everything else.
 */
import type { Schema } from '../../mcp/tool.ts';

export interface PiApi {
  on(event: 'session_start' | 'agent_start' | 'session_shutdown', handler: PiHandler): void;
  registerTool(tool: PiTool): void;
  /** The bus on which extensions of pi send events to each other. */
  events: {
    /** Newer versions of pi return a function that removes the handler. */
    on(channel: string, handler: (data: unknown) => unknown): unknown;
  };
}

export type PiHandler = (event: unknown, context: PiContext) => unknown;

/** pi ends the validity of a context with its session, after which each access throws an error. */
export interface PiContext {
  ui?: {
    /** Shows a line in the footer; undefined removes it. Absent in the first versions of pi. */
    setStatus?(key: string, text: string | undefined): void;
  };
}

export interface PiTool {
  name: string;
  label: string;
  description: string;
  parameters: Schema;
  /** Reports a failure by an error, whose message the model reads. */
  execute(
    callId: string,
    params: unknown,
    signal?: AbortSignal,
    onUpdate?: (partial: PiToolResult) => void,
  ): Promise<PiToolResult>;
}

export interface PiToolResult {
  content: { type: 'text'; text: string }[];
  details: unknown;
}
