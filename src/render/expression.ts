/** Evaluates `-o jsonpath=…` and `-o template=…`. The libraries are loaded on demand. */
import { hostBetween } from '../protocol/address.ts';
import { VregError } from '../protocol/errors.ts';
import { asText, type Escaper } from './escape.ts';

/**
 * Parses the expression of an output format before the command does anything.
 * @throws VregError USAGE if it is invalid
 */
export async function checkExpression(format: string): Promise<void> {
  const expression = format.slice(format.indexOf('=') + 1);
  if (format.startsWith('jsonpath=')) await evaluateJsonPath(expression, {});
  else await evaluateTemplate(expression, {});
}

/** Characters before a host that are read to find `//user@`: far more than a user name has. */
const MAX_USER = 256;

/**
 * Evaluates a path in the syntax of kubectl (`{.name}`, with any text around the braces) or of RFC 9535 (`$[*].id`). Without
 * braces, prints each value on its own line.
 */
export async function evaluateJsonPath(expression: string, data: unknown): Promise<string> {
  const { query } = await import('jsonpath-rfc9535');
  const evaluate = (path: string): string[] => {
    const whole = path.startsWith('$') ? path : `$${path.startsWith('.') || path.startsWith('[') ? '' : '.'}${path}`;
    try {
      return (query(data as never, whole) as unknown[]).map(asText);
    } catch (cause) {
      throw invalidPath(path, cause);
    }
  };
  if (!expression.includes('{')) return evaluate(expression).join('\n');
  if (/[{}]/.test(expression.replace(/\{[^{}]*\}/g, ''))) throw invalidPath(expression);
  return expandEscapes(expression).replace(/\{([^{}]*)\}/g, (match, path: string, at: number, text: string) => {
    const before = text.slice(Math.max(0, at - MAX_USER), at);
    const after = text.slice(at + match.length);
    const isAddress = /\baddress['"\]]*\s*$/.test(path);
    return evaluate(path.trim())
      .map((value) => hostBetween(before, value, after, isAddress))
      .join(' ');
  });
}

function invalidPath(text: string, cause?: unknown): VregError {
  return new VregError('USAGE', `invalid jsonpath "${text}"`, {
    field: 'output',
    hint: "for example -o jsonpath='{.address}' for one VM, or -o jsonpath='$[*].id' for a list",
    cause,
  });
}

/** Renders a mustache template; for a list, once per item. */
export async function evaluateTemplate(template: string, data: unknown): Promise<string> {
  const render = await mustache('template', "for example: -o template='{{name}} {{address}}\\n'");
  const text = expandEscapes(template);
  return (Array.isArray(data) ? data : [data]).map((item) => render(text, item)).join('');
}

/**
 * Loads mustache and replaces its HTML escaping.
 * @param where source of the template, for error messages
 * @param hint for error messages
 * @param makeEscaper makes the escaper of one output; without it, values are written as they are
 * @throws VregError USAGE if a template is invalid, INVALID naming VM and field if the escaper refuses a value
 */
export async function mustache(
  where: string,
  hint: string,
  makeEscaper: () => Escaper = () => UNESCAPED,
): Promise<(template: string, view: unknown) => string> {
  const { createWriter } = await import('./template-writer.ts');
  return (template, view) => {
    try {
      return createWriter(makeEscaper(), where).render(template, view);
    } catch (cause) {
      if (cause instanceof VregError) throw cause;
      throw new VregError('USAGE', `${where}: ${(cause as Error).message}`, { field: 'template', hint, cause });
    }
  };
}

const UNESCAPED: Escaper = { read: () => {}, escape: asText };

/** Replaces the escapes `\n` and `\t` with the characters. */
function expandEscapes(text: string): string {
  return text.replaceAll('\\n', '\n').replaceAll('\\t', '\t');
}
