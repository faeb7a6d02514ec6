// Bundles the browser's files. assets.ts calls it as a macro: while the binary is built, or as the receiver starts from its source. The
// binary's own build does not minify names, which would double uPlot's size; and a macro may only bundle with Bun's command.

/** The text of a script or a style sheet, with all that it imports, minified. */
export function bundled(path: string): string {
  const command = [process.execPath, "build", "--minify", `${import.meta.dir}/browser/${path}`];
  const { success, stdout, stderr } = Bun.spawnSync(command);
  if (!success) throw new Error(`bundle "${path}": ${stderr.toString()}`);
  return stdout.toString();
}
