%% Erlang: processes of one node, and of two that are linked by its own distribution. See contender.py for the lines.
-module(erlang_actors).
-export([main/0, far/0, echo/0]).

-define(BURST, 256).
-define(IN_FLIGHT, 64).

%% The other node: waits until its port to us closes.
far() ->
    io:get_line(""),
    halt().

echo() ->
    receive
        {ask, From, Ref} -> From ! {Ref, ok}, echo();
        tell -> echo()
    end.

main() ->
    Near = spawn(?MODULE, echo, []),
    [FarNode] = init:get_plain_arguments(),
    Far = reached(list_to_atom(FarNode), 200),
    io:format("erlang~n"),
    serve(Near, Far).

reached(Node, 0) -> exit({no_way_to, Node});
reached(Node, Tries) ->
    case net_kernel:connect_node(Node) of
        true -> spawn(Node, ?MODULE, echo, []);
        _ -> timer:sleep(50), reached(Node, Tries - 1)
    end.

serve(Near, Far) ->
    case io:get_line("") of
        eof -> halt();
        Line ->
            [Name, Text] = string:lexemes(string:trim(Line), " "),
            measure(Name, list_to_float(Text), Near, Far),
            serve(Near, Far)
    end.

measure("tell", S, Near, _) -> answer(S, fun() -> [Near ! tell || _ <- lists:seq(1, ?BURST)], ask(Near), ?BURST end);
measure("ask", S, Near, _) -> timed(S, Near);
measure("asks", S, Near, _) -> answer(S, fun() -> asks(Near), ?IN_FLIGHT end);
measure("ask_across", S, _, Far) -> timed(S, Far);
measure("asks_across", S, _, Far) -> answer(S, fun() -> asks(Far), ?IN_FLIGHT end).

ask(To) ->
    Ref = make_ref(),
    To ! {ask, self(), Ref},
    receive {Ref, ok} -> ok end.

asks(To) ->
    Refs = [begin Ref = make_ref(), To ! {ask, self(), Ref}, Ref end || _ <- lists:seq(1, ?IN_FLIGHT)],
    [receive {Ref, ok} -> ok end || Ref <- Refs].

answer(S, Batch) ->
    Began = now_us(),
    Count = until(Began + round(S * 1000000), Batch, 0),
    io:format("{\"count\": ~p, \"took_s\": ~p}~n", [Count, (now_us() - Began) / 1000000]).

until(End, Batch, Count) ->
    Done = Count + Batch(),
    case now_us() < End of
        true -> until(End, Batch, Done);
        false -> Done
    end.

timed(S, To) ->
    Began = now_us(),
    Times = times(Began + round(S * 1000000), To, []),
    Took = (now_us() - Began) / 1000000,
    Median = lists:nth(length(Times) div 2 + 1, lists:sort(Times)) / 1000,
    io:format("{\"count\": ~p, \"took_s\": ~p, \"p50_us\": ~p}~n", [length(Times), Took, Median]).

times(End, To, Times) ->
    Before = erlang:monotonic_time(nanosecond),
    ask(To),
    After = erlang:monotonic_time(nanosecond),
    More = [After - Before | Times],
    case After div 1000 < End of
        true -> times(End, To, More);
        false -> More
    end.

now_us() -> erlang:monotonic_time(microsecond).
