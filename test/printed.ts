// How `docker stats` prints memory: https://pkg.go.dev/github.com/docker/go-units#BytesSize, four digits at most.

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];

/** So many MiB, as it prints them. */
export function printedBytes(mebibytes: number): string {
  let size = mebibytes * 2 ** 20;
  let unit = 0;
  while (size >= 1024 && unit < UNITS.length - 1) {
    size /= 1024;
    unit++;
  }
  return `${Number(size.toPrecision(4))}${UNITS[unit]}`;
}
