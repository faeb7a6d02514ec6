// Tells those who wait that something may have happened: loops that tell it, streams that show it.

/** Wakes those who wait for events. */
export interface News {
  ring(): void;
  /** Calls back once at the next ring; gives how to take that back. */
  once: (callback: () => void) => () => void;
}

/** Nobody waits. */
export function createNews(): News {
  let waiting = new Set<() => void>();
  return {
    ring() {
      const now = waiting;
      waiting = new Set();
      for (const callback of now) callback();
    },
    once(callback) {
      waiting.add(callback);
      return () => waiting.delete(callback);
    },
  };
}
