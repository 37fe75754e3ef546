import assert from 'node:assert/strict';
import test from 'node:test';
import { type Linked, LinkedQueue } from '../../../daemon/registry/linked-queue.ts';
import { randomOf } from '../../helpers/random.ts';

class Element implements Linked<Element> {
  queue: LinkedQueue<Element> | undefined;
  previous: Element | undefined;
  next: Element | undefined;
  constructor(readonly name: string) {}
}

const elements = (names: string) => [...names].map((name) => new Element(name));

const queueOf = (all: readonly Element[]) => {
  const queue = new LinkedQueue<Element>();
  for (const element of all) queue.push(element);
  return queue;
};

const namesIn = (queue: LinkedQueue<Element>) => [...queue].map(({ name }) => name).join('');

test('elements leave a queue in the order in which they were pushed last', () => {
  const [a, b, c] = elements('abc');
  const queue = queueOf([a!, b!, c!]);
  queue.push(a!);
  assert.equal(namesIn(queue), 'bca');
  assert.equal(queue.first, b);
});

test('an element can be put before another one', () => {
  for (const [next, names] of [
    ['a', 'cab'],
    ['b', 'acb'],
  ]) {
    const all = elements('abc');
    const queue = queueOf(all);
    queue.insert(all[2]!, all[next === 'a' ? 0 : 1]);
    assert.equal(namesIn(queue), names);
    queue.push(new Element('z'));
    assert.equal(namesIn(queue), `${names}z`);
  }
});

test('an element that is pushed to a queue leaves its former queue', () => {
  const [a, b] = elements('ab');
  const [from, to] = [queueOf([a!, b!]), queueOf([])];
  to.push(a!);
  assert.deepEqual([namesIn(from), namesIn(to)], ['b', 'a']);
  assert.equal(a!.queue, to);
});

test('an element that replaces another one takes its place, and the other one is in no queue', () => {
  for (const at of [0, 1, 2]) {
    const all = elements('abc');
    const queue = queueOf(all);
    const [other] = elements('x');
    queue.replace(all[at]!, other!);
    assert.equal(namesIn(queue), 'abc'.replace(all[at]!.name, 'x'));
    assert.deepEqual([all[at]!.queue, all[at]!.previous, all[at]!.next], [undefined, undefined, undefined]);
    queue.push(all[at]!);
    assert.equal(namesIn(queue), 'abc'.replace(all[at]!.name, 'x') + all[at]!.name);
  }
});

test('the current element may be removed during an iteration', () => {
  const queue = queueOf(elements('abcd'));
  let seen = '';
  for (const element of queue) {
    seen += element.name;
    if (element.name !== 'c') queue.remove(element);
  }
  assert.deepEqual([seen, namesIn(queue)], ['abcd', 'c']);
});

test('after any sequence of changes, two queues contain the same as two arrays', (t) => {
  const random = randomOf(t);
  const all = elements('abcdefgh');
  const queues = [queueOf([]), queueOf([])];
  const arrays: Element[][] = [[], []];
  const takeOut = (element: Element) => {
    for (const array of arrays) if (array.includes(element)) array.splice(array.indexOf(element), 1);
  };
  for (let change = 0; change < 2000; change++) {
    const element = all[random.below(all.length)]!;
    const other = all[random.below(all.length)]!;
    const at = random.below(2);
    const kind = random.below(3);
    if (kind === 0) {
      queues[at]!.push(element);
      takeOut(element);
      arrays[at]!.push(element);
    } else if (kind === 1 && element.queue) {
      element.queue.remove(element);
      takeOut(element);
    } else if (kind === 2 && element.queue && !other.queue) {
      const array = arrays.find((candidate) => candidate.includes(element))!;
      element.queue.replace(element, other);
      array[array.indexOf(element)] = other;
    }
    assert.deepEqual(
      queues.map(namesIn),
      arrays.map((array) => array.map(({ name }) => name).join('')),
    );
    assert.deepEqual(
      queues.map(({ first }) => first),
      arrays.map(([first]) => first),
    );
  }
});

test('a queue counts the chosen elements that it contains, however they come and go', () => {
  const all = elements('aAbB');
  const queue = new LinkedQueue<Element>(({ name }) => (name === name.toUpperCase() ? 1 : 0));
  for (const element of all) queue.push(element);
  assert.equal(queue.countOf(1), 2);
  queue.push(all[1]!);
  assert.equal(queue.countOf(1), 2);
  queue.remove(all[1]!);
  assert.equal(queue.countOf(1), 1);
  const [upper, lower] = elements('Xx');
  queue.replace(all[0]!, upper!);
  assert.equal(queue.countOf(1), 2);
  queue.replace(all[3]!, lower!);
  assert.equal(queue.countOf(1), 1);
  new LinkedQueue<Element>().push(upper!);
  assert.equal(queue.countOf(1), 0);
});

test('an element can be pushed before the elements at the end that must stay behind it', () => {
  const [a, b, c, d, e] = elements('abcde');
  const queue = queueOf([b!, d!]);
  const push = (element: Element) => queue.push(element, ({ name }) => name > element.name);
  for (const element of [c!, e!, a!]) push(element);
  assert.equal(namesIn(queue), 'abcde');
  assert.equal(queue.first, a);
  queue.remove(c!);
  push(b!);
  assert.equal(namesIn(queue), 'abde');
});
