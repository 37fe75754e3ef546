/** `-o jsonpath=…` and `-o template=…`: an answer's data through an expression. The libraries are loaded when used. */
import { VregError } from '../protocol/errors.ts';

/** @throws VregError USAGE when the expression of a format does not parse: told before anything is done */
export async function checkExpression(format: string): Promise<void> {
  const expression = format.slice(format.indexOf('=') + 1);
  if (format.startsWith('jsonpath=')) await evaluateJsonPath(expression, {});
  else await evaluateTemplate(expression, {});
}

/** A path like kubectl's or RFC 9535's: `{.name}`, `$[*].id`; braces may stand in text. One value a line without braces. */
export async function evaluateJsonPath(expression: string, data: unknown): Promise<string> {
  const { query } = await import('jsonpath-rfc9535');
  const valuesOf = (path: string): string[] => {
    const whole = path.startsWith('$') ? path : `$${path.startsWith('.') || path.startsWith('[') ? '' : '.'}${path}`;
    try {
      return (query(data as never, whole) as unknown[]).map(asText);
    } catch (cause) {
      throw notAPath(path, cause);
    }
  };
  if (!expression.includes('{')) return valuesOf(expression).join('\n');
  if (/[{}]/.test(expression.replace(/\{[^{}]*\}/g, ''))) throw notAPath(expression);
  return asTyped(expression).replace(/\{([^{}]*)\}/g, (_, path: string) => valuesOf(path.trim()).join(' '));
}

function notAPath(text: string, cause?: unknown): VregError {
  return new VregError('USAGE', `jsonpath: "${text}" is not a path`, {
    field: 'output',
    hint: "for example: -o jsonpath='{.address}' of one VM, -o jsonpath='$[*].id' of a list",
    cause,
  });
}

/** A mustache template; a list is rendered item by item. */
export async function evaluateTemplate(template: string, data: unknown): Promise<string> {
  const render = await mustache('template', "for example: -o template='{{name}} {{address}}\\n'");
  const text = asTyped(template);
  return (Array.isArray(data) ? data : [data]).map((item) => render(text, item)).join('');
}

/**
 * mustache, without the HTML escaping that is its default.
 * @param where the template stands, for errors
 * @param hint for errors, too
 * @throws VregError USAGE on a template that does not parse
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

/** `\n` and `\t` as they are typed in a shell's quotes. */
function asTyped(text: string): string {
  return text.replaceAll('\\n', '\n').replaceAll('\\t', '\t');
}
