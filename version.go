package main

// version is azprov's own, in reports and in the User-Agent.
const version = "0.1.0"
