/** The shape of a tool of `vreg mcp`, and the check of its arguments. */
import type { RegistryClient } from '../client.ts';
import type { Context } from '../command.ts';
import { suggestion } from '../help/suggest.ts';
import { VregError } from '../protocol/errors.ts';
import type { Standing } from './standing.ts';

/** The part of JSON Schema that the tools use. */
export interface Schema {
  type: 'object' | 'array' | 'string' | 'integer' | 'boolean';
  description?: string;
  enum?: readonly string[];
  properties?: Readonly<Record<string, Schema>>;
  required?: readonly string[];
  items?: Schema;
  minimum?: number;
  maximum?: number;
}

export interface ObjectSchema extends Schema {
  type: 'object';
  properties: Readonly<Record<string, Schema>>;
}

/** One call of a tool. */
export interface Call {
  context: Context;
  /** A client of this call only, whose requests end when the call is cancelled. */
  client: RegistryClient;
  standing: Standing;
  /** Names of the tools that this server offers. */
  tools: readonly string[];
  /** Aborted when the client cancels the call, and when the program ends. */
  signal: AbortSignal;
  /** Sends the progress of the call, if the client asked for it. @param message without text from VMs */
  progress(done: number, total: number, message: string): Promise<void>;
}

export interface ToolAnswer {
  /** One line without text from VMs. */
  summary: string;
  data: Record<string, unknown>;
  /** A line below the data, without text from VMs. */
  more?: string | undefined;
}

export type Arguments = Readonly<Record<string, unknown>>;

export interface Tool {
  name: string;
  description: string;
  input: ObjectSchema;
  output: ObjectSchema;
  /** Absent for a tool that only reads. */
  change?: { destructive: boolean; idempotent: boolean };
  /** Waits for something, so that it does not count among the calls that end soon. */
  isLong?: true;
  run(call: Call, args: Arguments): Promise<ToolAnswer>;
}

/**
 * Checks the arguments of a call. Models send null for parameters that they do not use, so null counts as absent.
 * @throws VregError INVALID naming the parameter
 */
export function checkArguments({ input, name }: Tool, given: unknown): Arguments {
  const args = Object.entries((given ?? {}) as object).filter(([, value]) => value !== null);
  const known = Object.keys(input.properties);
  for (const [key, value] of args) {
    const schema = Object.hasOwn(input.properties, key) ? input.properties[key] : undefined;
    if (!schema) throw invalid(key, `unknown parameter "${key}"${suggestion(key, known)}`, parametersOf(name, known));
    checkValue(schema, key, value);
  }
  for (const key of input.required ?? [])
    if (!args.some(([given]) => given === key))
      throw invalid(key, `the parameter "${key}" is missing`, choiceOf(input.properties[key]!));
  return Object.fromEntries(args);
}

function parametersOf(name: string, known: readonly string[]): string {
  return known.length === 0 ? `${name} has no parameters` : `the parameters of ${name}: ${known.join(', ')}`;
}

function choiceOf({ enum: values }: Schema): string | undefined {
  return values && `one of: ${values.join(', ')}`;
}

function checkValue(schema: Schema, key: string, value: unknown): void {
  const { type, enum: values, minimum, maximum } = schema;
  const actual = Array.isArray(value) ? 'array' : Number.isInteger(value) ? 'integer' : typeof value;
  if (actual !== type) throw invalid(key, `"${key}" must be of the type ${type}, not ${actual}`);
  if (values && !values.includes(value as string))
    throw invalid(key, `invalid ${key} ${JSON.stringify(value)}${suggestion(String(value), values)}`, choiceOf(schema));
  const isBelow = minimum !== undefined && (value as number) < minimum;
  const isAbove = maximum !== undefined && (value as number) > maximum;
  if (isBelow || isAbove)
    throw invalid(key, `"${key}" must be ${isBelow ? `at least ${minimum}` : `at most ${maximum}`}`);
}

function invalid(field: string, message: string, hint?: string): VregError {
  return new VregError('INVALID', message, { field, ...(hint === undefined ? {} : { hint }) });
}
