// Swagger UI, from the assets that BentoML brings, on the two documents of this service.
const { SwaggerUIBundle, SwaggerUIStandalonePreset } = window;

SwaggerUIBundle({
  dom_id: "#swagger-ui",
  urls: [
    { url: "/openapi.json", name: "Files and JSON: /v1" },
    { url: "/docs.json", name: "Methods of the BentoML service" },
  ],
  presets: [SwaggerUIBundle.presets.apis, SwaggerUIStandalonePreset],
  layout: "StandaloneLayout",
  validatorUrl: null,
  deepLinking: true,
  defaultModelsExpandDepth: 0,
  docExpansion: "list",
  tryItOutEnabled: true,
});
