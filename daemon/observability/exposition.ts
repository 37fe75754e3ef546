/**
 * The text of the metrics. prom-client formats and escapes them. Its own counters are not used: they look up labels by text with
 * each increment, whereas the daemon increments plain numbers and reads them when it is scraped.
 */
import { type Metric, type OpenMetricsContentType, Registry } from 'prom-client';
import type { Histogram } from './histogram.ts';

export type Labels = Readonly<Record<string, string>>;

export interface Sample {
  labels?: Labels;
  value: number;
}

interface Family {
  name: string;
  help: string;
  type: 'counter' | 'gauge' | 'histogram';
  values: readonly { metricName?: string; labels: Record<string, string | number>; value: number }[];
}

export class Exposition {
  readonly #registry = new Registry<OpenMetricsContentType>();

  /** @param accept header of the request, which decides between the text format of Prometheus and OpenMetrics */
  constructor(accept: string | undefined) {
    if (prefersOpenMetrics(accept)) this.#registry.setContentType(Registry.OPENMETRICS_CONTENT_TYPE);
  }

  get contentType(): string {
    return this.#registry.contentType;
  }

  gauge(name: string, help: string, values: number | readonly Sample[]): void {
    this.#add({ name, help, type: 'gauge', values: samples(values) });
  }

  /** @param name ends with `_total` */
  counter(name: string, help: string, values: number | readonly Sample[]): void {
    this.#add({ name, help, type: 'counter', values: samples(values) });
  }

  histogram(name: string, help: string, all: readonly { labels?: Labels; histogram: Histogram }[]): void {
    const values = all.flatMap(({ labels = {}, histogram: { bounds, counts, sum } }) => {
      let total = 0;
      const buckets = Array.from(counts, (count, bucket) => {
        total += count;
        return {
          metricName: `${name}_bucket`,
          labels: { ...labels, le: bounds[bucket] ?? '+Inf' },
          value: total,
        };
      });
      return [
        ...buckets,
        { metricName: `${name}_sum`, labels: { ...labels }, value: sum },
        { metricName: `${name}_count`, labels: { ...labels }, value: total },
      ];
    });
    this.#add({ name, help, type: 'histogram', values });
  }

  text(): Promise<string> {
    return this.#registry.metrics();
  }

  #add(family: Family): void {
    // The registry calls only get() of its metrics. For OpenMetrics, it shortens the names of counters before that.
    const metric = { ...family, get: async () => metric };
    this.#registry.registerMetric(metric as unknown as Metric);
  }
}

function samples(values: number | readonly Sample[]): Family['values'] {
  const list = typeof values === 'number' ? [{ value: values }] : values;
  return list.map(({ labels = {}, value }) => ({ labels: { ...labels }, value }));
}

/** True if an Accept header names OpenMetrics with a higher quality than plain text (RFC 9110, 12.5.1). */
function prefersOpenMetrics(accept = ''): boolean {
  const quality = (type: string) =>
    Math.max(
      0,
      ...accept
        .toLowerCase()
        .split(',')
        .map((range) => range.split(';').map((part) => part.trim()))
        .filter(([name]) => name === type)
        .map(([, ...parameters]) => {
          const q = parameters.find((parameter) => parameter.startsWith('q='));
          return q === undefined ? 1 : Number(q.slice(2)) || 0;
        }),
    );
  const open = quality('application/openmetrics-text');
  return open > 0 && open >= quality('text/plain');
}
