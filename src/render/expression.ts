/** Evaluates `-o template=…`, and checks the expressions of output formats. The library is loaded on demand. */
import { VregError } from '../protocol/errors.ts';
import { asText, type Escaper } from './escape.ts';
import { evaluateJsonPath } from './jsonpath.ts';

/**
 * Parses the expression of an output format before the command does anything.
 * @throws VregError USAGE if it is invalid
 */
export async function checkExpression(format: string): Promise<void> {
  const expression = format.slice(format.indexOf('=') + 1);
  if (format.startsWith('jsonpath=')) await evaluateJsonPath(expression, {});
  else await evaluateTemplate(expression, {}).next();
}

/** Renders a mustache template; for a list, once per item. @returns the output for each item */
export async function* evaluateTemplate(template: string, data: unknown): AsyncGenerator<string> {
  const render = await mustache('template', "for example: -o template='{{name}} {{address}}\\n'");
  const text = template.replaceAll('\\n', '\n').replaceAll('\\t', '\t');
  for (const item of Array.isArray(data) ? data : [data]) yield render(text, item);
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
