"""Guards: what a tenant's rules find in prompts and answers, and what becomes of it.

Floor: adapters, one room in several files; what does not ask or wait is sans-IO. Lowest first:

    folding                 one spelling for what looks the same, and the way back to the text as it came
    finder                  what one thing that may be found looks like, how long it may be, and what proves it
    recognisers, injection  the finders that come along; `words` makes those of a deny-list
    rules                   a rule: what it finds, on which side, and what is done then
    window                  texts that come in pieces: no more of one is kept than what a match may need
    parts                   forbidden words that were divided over the parts of one message
    service                 what OpenAI's `/v1/moderations` is asked
    people                  Microsoft Presidio, where it is installed
    asking                  rules that ask one of these
    answers, streams        a whole answer; a stream of events (`openai_streams`, `named_streams`: in each API's shape)
    stream_asking           a stream that a service must see
    guard                   a tenant's rules, for the gateway's line

A rule's texts and what they found are never logged: only its name, the side, and how often.
"""
