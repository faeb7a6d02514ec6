console.log(new Date().toISOString(), performance.now() | 0);
await Bun.sleep(1100);
console.log(new Date().toISOString(), performance.now() | 0);
