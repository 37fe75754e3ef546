/** Builds the URL of a VM from its address and services, for `url`, `env`, `exec` and the run dir. */
import { isIP } from 'node:net';
import { formatNames } from '../config/values.ts';
import { isPort, splitAddress } from '../protocol/address.ts';
import { VregError } from '../protocol/errors.ts';
import type { Service, Vm } from '../protocol/vm.ts';

export interface UrlParts {
  /** Name of the service whose port and protocol to use. */
  service?: string | undefined;
  scheme?: string | undefined;
  path?: string | undefined;
}

/** Schemes that `--scheme` accepts. `services[].protocol` may contain others, for example `postgres`. */
export const URL_SCHEMES = ['http', 'https', 'ws', 'wss'] as const;

/** The grammar of a scheme (RFC 3986, 3.1). */
const SCHEME = /^[a-z][a-z0-9+.-]*$/;
/** URLs with these schemes make a program read its own files or run a script instead of connecting to the VM. */
const LOCAL_SCHEMES: readonly string[] = ['file', 'data', 'javascript'];
/** Maximum number of services in an error message, so that it fits on a few lines. */
const MAX_NAMED = 8;

/**
 * Builds the URL of a VM. The port is that of the named service; without a name, it is the port in the address or, if there is
 * none, the only port of the VM's services. The scheme is the `protocol` of the services with that port; without one, it is the
 * scheme of a URL of the registry if both have the same host or are in the same domain, because then the same proxy serves both,
 * otherwise `http`.
 * @param vm an entry with a valid address
 * @throws VregError USAGE or INVALID naming the VM's services if they do not determine the port and the scheme
 */
export function urlOf(vm: Vm, registryUrls: readonly string[], { service, scheme, path = '' }: UrlParts = {}): string {
  const { host, port: own } = splitAddress(vm.address);
  const services = (vm.services ?? []).filter(({ name, port }) => isPort(port) && (service ?? name) === name);
  const port = own !== undefined && service === undefined ? Number(own) : onlyPort(vm, services, service);
  const protocol = () =>
    protocolOf(
      vm,
      services.filter((each) => each.port === port),
    );
  const fallback = () => (registryUrls.some((url) => isInDomainOf(url, host)) ? 'https' : 'http');
  const slash = path === '' || path.startsWith('/') ? '' : '/';
  return `${scheme ?? protocol() ?? fallback()}://${host}:${port}${slash}${path}`;
}

/** Same as {@link urlOf}, but returns a VregError instead of throwing it. */
export function urlOrFault(
  vm: Vm,
  registryUrls: readonly string[],
  parts?: UrlParts,
): { url: string; fault?: never } | { url?: never; fault: VregError } {
  try {
    return { url: urlOf(vm, registryUrls, parts) };
  } catch (error) {
    if (error instanceof VregError) return { fault: error };
    throw error;
  }
}

/** @throws VregError INVALID if the services have no port, USAGE if they have several */
function onlyPort({ id }: Vm, services: readonly Service[], service: string | undefined): number {
  const [port, ...others] = new Set(services.map((each) => each.port));
  if (port !== undefined && others.length === 0) return port;
  if (port !== undefined) {
    const list = formatNames(
      services.map((each) => `${each.name}:${each.port}`),
      MAX_NAMED,
    );
    throw new VregError('USAGE', `VM "${id}" has several ports: ${list}`, {
      field: 'service',
      hint: 'name the service: --service NAME',
    });
  }
  if (service !== undefined)
    throw new VregError('INVALID', `VM "${id}" has no valid port for the service "${service}"`, {
      field: 'services',
      hint: 'show its services: vreg get ID -o json',
    });
  throw new VregError('INVALID', `VM "${id}" has no port: it is registered without services`, {
    field: 'services',
    hint: 'register its port (vreg update ID --service NAME:PORT), or print its address only (vreg addr)',
  });
}

/**
 * @param services those with the port of the URL
 * @returns their protocol in lower case; undefined if none of them has one
 * @throws VregError USAGE if they have several, INVALID if it cannot be the scheme of a URL
 */
function protocolOf({ id }: Vm, services: readonly Service[]): string | undefined {
  const stated = services.flatMap(({ name, protocol }) =>
    protocol === undefined || protocol === null || protocol === ''
      ? []
      : [{ name, scheme: String(protocol).trim().toLowerCase() }],
  );
  const [scheme, ...others] = new Set(stated.map((each) => each.scheme));
  if (others.length > 0) {
    const list = formatNames(
      stated.map((each) => `${each.name} (${each.scheme})`),
      MAX_NAMED,
    );
    throw new VregError('USAGE', `VM "${id}" has services with different protocols on one port: ${list}`, {
      field: 'service',
      hint: 'name the service (--service NAME) or the scheme (--scheme SCHEME)',
    });
  }
  if (scheme === undefined || (SCHEME.test(scheme) && !LOCAL_SCHEMES.includes(scheme))) return scheme;
  const { name } = stated[0]!;
  throw new VregError(
    'INVALID',
    `the protocol "${scheme}" of the service "${name}" of VM "${id}" is not allowed in a URL`,
    {
      field: 'services',
      hint: `name the scheme: --scheme ${URL_SCHEMES.join('|')}`,
    },
  );
}

/** True if the registry's URL is https, and its host is the same or in the same domain: `a.vm.vers.sh` and `b.vm.vers.sh`. */
function isInDomainOf(registryUrl: string, host: string): boolean {
  const registry = new URL(registryUrl);
  if (registry.protocol !== 'https:') return false;
  const domain = domainOf(host);
  return isSameHost(registry.hostname, host) || (domain !== undefined && domain === domainOf(registry.hostname));
}

/** Compares host names without regard to case and to a dot at the end, and IPv6 addresses in any notation. */
function isSameHost(a: string, b: string): boolean {
  const canonical = (host: string) => {
    const url = `http://${host.replace(/\.$/, '')}`;
    return URL.canParse(url) ? new URL(url).hostname : host;
  };
  return canonical(a) === canonical(b);
}

/**
 * The domain of a host: its name without the first label, as a wildcard certificate covers it. A name of two labels is a domain
 * itself, because its last label is a top-level domain, which does not belong to one owner.
 * @returns undefined for an IP address and for a name without a dot
 */
function domainOf(host: string): string | undefined {
  const labels = host.toLowerCase().replace(/\.$/, '').split('.');
  if (labels.length < 2 || host.startsWith('[') || isIP(host) !== 0) return undefined;
  return labels.slice(labels.length > 2 ? 1 : 0).join('.');
}
