"""The whole product over real sockets: the gateway's command line, several engines and the clients people use."""
