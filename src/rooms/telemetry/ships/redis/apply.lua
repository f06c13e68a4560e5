-- Pushes a piece of a batch, if it is the turn of its shard; says the place where the shard is then.
--
-- KEYS  the hash of places, the hash of counts
-- ARGV  shard, place before, place after, most elements of a list (0: any number),
--       then for each ship: name, number of datagrams, datagrams

redis.call('SELECT', 0)
local place = redis.call('HGET', KEYS[1], ARGV[1]) or '0:0'
if place ~= ARGV[2] then
    return place
end
-- Whatever may fail comes before the first write: a script is not rolled back.
local function each_ship(act)
    local at = 5
    while at <= #ARGV do
        local count = tonumber(ARGV[at + 1])
        act(ARGV[at], count, at + 2)
        at = at + 2 + count
    end
end
local kind = redis.call('TYPE', KEYS[2]).ok
if kind ~= 'none' and kind ~= 'hash' then
    return redis.error_reply('WRONGTYPE ' .. KEYS[2] .. ' in database 0 is no hash')
end
redis.call('SELECT', 1)
local foreign
each_ship(function(ship)
    local kind = redis.call('TYPE', ship).ok
    if kind ~= 'none' and kind ~= 'list' then
        foreign = ship
    end
end)
if foreign then
    return redis.error_reply('WRONGTYPE the key of a ship in database 1 is no list: ' .. foreign)
end
local most = tonumber(ARGV[4])
each_ship(function(ship, count, first)
    -- Lua puts no more than some thousand values on its stack.
    for from = first, first + count - 1, 1000 do
        redis.call('RPUSH', ship, unpack(ARGV, from, math.min(from + 999, first + count - 1)))
    end
    if most > 0 then
        redis.call('LTRIM', ship, -most, -1)
    end
end)
redis.call('SELECT', 0)
each_ship(function(ship, count)
    redis.call('HINCRBY', KEYS[2], ship, count)
end)
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
return ARGV[3]
