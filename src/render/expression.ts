/** Evaluates `-o jsonpath=…` and `-o template=…`. The libraries are loaded on demand. */
import { VregError } from '../protocol/errors.ts';

/**
 * Parses the expression of an output format before the command does anything.
 * @throws VregError USAGE if it is invalid
 */
export async function checkExpression(format: string): Promise<void> {
  const expression = format.slice(format.indexOf('=') + 1);
  if (format.startsWith('jsonpath=')) await evaluateJsonPath(expression, {});
  else await evaluateTemplate(expression, {});
}

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
  return expandEscapes(expression).replace(/\{([^{}]*)\}/g, (_, path: string) => evaluate(path.trim()).join(' '));
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
 * Loads mustache and turns off its HTML escaping.
 * @param where source of the template, for error messages
 * @param hint for error messages
 * @throws VregError USAGE if a template is invalid
 */
export async function mustache(where: string, hint: string): Promise<(template: string, view: unknown) => string> {
  const { default: Mustache } = await import('mustache');
  return (template, view) => {
    try {
      return Mustache.render(template, view, undefined, { escape: asText });
    } catch (cause) {
      throw new VregError('USAGE', `${where}: ${(cause as Error).message}`, { field: 'template', hint, cause });
    }
  };
}

function asText(value: unknown): string {
  return typeof value === 'string' ? value : JSON.stringify(value);
}

/** Replaces the escapes `\n` and `\t` with the characters. */
function expandEscapes(text: string): string {
  return text.replaceAll('\\n', '\n').replaceAll('\\t', '\t');
}
