/** The worker that all tabs of a browser share, so that they use one connection: a browser opens six to a host at most. */

import type { TabMessage } from './fleet-message.ts';
import { FleetStream } from './fleet-stream.ts';

const ports = new Set<MessagePort>();
const stream = new FleetStream(new URL('..', self.location.href), (message) => {
  for (const port of ports) port.postMessage(message);
});

addEventListener('connect', (event) => {
  const [port] = (event as MessageEvent).ports;
  if (!port) return;
  ports.add(port);
  port.onmessage = ({ data }: MessageEvent<TabMessage>) => {
    if (data === 'goodbye') ports.delete(port);
    else if (data === 'renew') stream.renew();
    else stream.wake();
  };
  for (const message of stream.snapshot()) port.postMessage(message);
});
void stream.run();
