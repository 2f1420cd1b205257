// Where the page starts.

import { mount } from "svelte";
import App from "./App.svelte";
import { nonceForStyles } from "./lib/csp";
import "./styles/base.css";

nonceForStyles();
mount(App, { target: document.getElementById("page") as HTMLElement });
