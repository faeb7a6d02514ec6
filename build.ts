const out = process.argv[process.argv.indexOf("--outdir") + 1] ?? "dist";
await Bun.$`${process.execPath} build --compile --no-compile-autoload-dotenv --no-compile-autoload-bunfig --outfile ${out}/picket-collector collector.ts`.quiet();
