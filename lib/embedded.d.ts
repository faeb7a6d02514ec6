// Files that are embedded as text: `import unit from "./etc/x.service" with { type: "text" }`.

declare module "*.service" {
  const text: string;
  export default text;
}

declare module "*.yaml" {
  const text: string;
  export default text;
}
