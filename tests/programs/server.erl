%% Counts its requests; the count lives in a process of its own.
main(_) ->
    Counter = spawn_link(fun() -> count(1) end),
    {ok, Listener} = gen_tcp:listen(0, [binary, {ip, {127, 0, 0, 1}}, {active, false}, {reuseaddr, true}]),
    {ok, Port} = inet:port(Listener),
    ok = file:write_file("draft", integer_to_list(Port)),
    ok = file:rename("draft", "port"),
    accept(Listener, Counter).

count(N) ->
    receive
        {From, next} ->
            From ! {count, N},
            count(N + 1)
    end.

accept(Listener, Counter) ->
    {ok, Socket} = gen_tcp:accept(Listener),
    Server = spawn(fun() -> receive go -> answer(Socket, Counter) end end),
    ok = gen_tcp:controlling_process(Socket, Server),
    Server ! go,
    accept(Listener, Counter).

answer(Socket, Counter) ->
    {ok, _Request} = gen_tcp:recv(Socket, 0),
    Counter ! {self(), next},
    receive
        {count, N} ->
            Line = io_lib:format("~b word ~b~n", [N, N * 7919 rem 50000]),
            Head = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n",
            ok = gen_tcp:send(Socket, [Head, Line])
    end,
    gen_tcp:close(Socket).
